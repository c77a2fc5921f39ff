"""The planner: which replica of which model runs on which partition of which device.

The question is a bin packing with choices: a device takes one sharing mode and one level of
interference (`core.interference`); at a given mode and level all its limits are linear, and a
model's demand is covered by any mix of its candidates. The parts:

    instance     the request as integers: footprints round up, capacities down, here only
    bound        prices on memory, SMs, load and count such that no device is worth more than it
                 costs; the sum of what each model must buy is a bound no plan can beat
    greedy       packs by those prices, then empties the devices that can be emptied
    exact        the same as CP-SAT, hinted with the best so far, where the instance is small
    portfolio    runs the members, keeps the best, and prefers plans near what runs
    assign       abstract devices to real ones with the fewest moves; cores and replica ids
    check        says what is wrong with a plan, sharing no code with the above
    explain      why each model got what it got, what is unplaced and why, remedies

Devices of one kind are interchangeable until `assign`.
"""
