"""The planner: which replica of which model runs on which partition of which device.

The question is a bin packing with choices: a device takes one sharing mode and one level of
interference (`core.interference`); at a given mode and level all its limits are linear, and a
model's demand is covered by any mix of its candidates. The parts:

    candidates   profiles to candidates: operating points with margins
    instance     the request as integers: footprints round up, capacities down, here only
    pools        memory of a device, and cores and memory that devices of one host share
    bound        prices on memory, SMs, load, count and cores such that no device is worth more
                 than it costs; the sum of what each model must buy is a bound no plan can beat
    packing      which items are on which abstract device: the state all packers work on
    covers       each model's cheapest covering set at those prices, packed device by device
    greedy       one replica after the other by those prices; the first-fit and best-fit baselines
    exact        the same question as CP-SAT, hinted with the best so far, where it is small
    share        what is left over, to models without a rate, by weight
    running      what runs now as a packing
    repair       what runs, kept where it is: what is missing placed, then improved within a budget
                 of moves (repair_search: the compiled part)
    costs        the objectives by name: devices and replicas in the solver's integers, a plan's
                 value in its true figures
    scale        the largest common factor, for max-min and max-headroom (scale_bound: its bound)
    tidy         free memory in large pieces, where that moves nothing
    portfolio    runs the members, keeps the best, and prefers plans near what runs
    assign       abstract devices to real ones with the fewest moves; replica ids
    cores        which core goes to which engine
    certify      what is proven of the plan, in its true figures
    check        says what is wrong with a plan, sharing no code with the above
    explain      why each model got what it got, what is unplaced and why, remedies
    api, worker  the door, and the same door in a process of its own

Devices of one kind are interchangeable until `assign`.
"""
