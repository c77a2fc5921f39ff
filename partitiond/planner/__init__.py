"""Plans which replica of which model runs on which partition of which device.

The problem is a bin packing with choices: a device takes one sharing mode, and its level of
interference (`core.performance.interference`) follows from what it holds. At a given mode and level
all limits of a device are linear, and a model's demand is covered by any mix of its candidates.
Devices of one kind are interchangeable until `pack.assign`. A solve goes through these rooms:

    model     the request as integers: floats are rounded outwards for bounds, inwards for plans
    bounds    prices of resources by a linear program, and the bound that follows from them
    pack      packings, and greedy ways to complete them
    exact     the same problem in CP-SAT, for small instances
    kernels   compiled loops of the search
    columns   whole contents of devices, priced exactly: a bound and a first plan for goodput
    search    the portfolio that runs all of these and keeps the best plan
    progress  the clock, the best value and the best bound of the running solve
    check     reports what is wrong with a plan; shares no code with the rest
    answers   the certificate, explanations, what-ifs and ways out

`api` is the entry point, `worker` the same in a process of its own.
"""

from partitiond import native

native.activate(native.PLANNER)
