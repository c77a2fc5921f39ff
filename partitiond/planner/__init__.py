"""The planner: which replica of which model runs on which partition of which device.

The question is a bin packing with choices: a device takes one sharing mode and one level of
interference (`core.interference`); at a given mode and level all its limits are linear, and a
model's demand is covered by any mix of its candidates. The parts:

The question, as integers:

    candidates   profiles to candidates: operating points with margins
    instance     footprints round up, capacities down, here only (types: what it is made of;
                 needs, options, pools: its models, ways to run a device, and what is shared)
    costs, draw  the objectives by name: devices and replicas in the solver's integers, a plan's
                 value in its true figures; power, host cores and host memory of a replica
    ties         what placement rules tie together; rules: what they ask of a packing
    arrays       the instance as flat arrays; kernels: compiled loops over them, and all of numba

What no plan can beat:

    weighted     all devices of one kind poured together; bound: the prices and bound it gives
    columns      the same from whole replicas on whole devices (columns_rows, columns_master,
                 columns_value: its parts; columns_dive: plans from it)
    proof        goodput proven by trying covering sets, on small instances
    scale_bound  the largest common factor, relaxed

Plans:

    packing      which items are on which abstract device: the state all packers work on
    greedy       one replica after the other by prices; the first-fit and best-fit baselines
    covers       each model's cheapest covering set at those prices, packed device by device
    ruled        models whose rules go beyond one device
    exact        the same question as CP-SAT, hinted with the best so far, where it is small
    improve      ruin and recreate in compiled code (neighbourhood: its arrays; searching: its time)
    running      what runs now as a packing; repair: the same with what is missing placed, improved
                 within a budget of moves (repair_search: the compiled part)
    scale        the largest common factor, for max-min and max-headroom
    portfolio    runs the members, keeps the best (members, pricer, progress, found: its parts)

From a packing to a plan:

    share, tidy  what is left over, by weight; free memory in large pieces
    nearest      of plans as good, the one near what runs
    assign       abstract devices to real ones with the fewest moves; replica ids (slices: where MIG
                 instances start; cores: which core goes to which engine)
    certify      what is proven of the plan, in its true figures
    check        says what is wrong with a plan, sharing no code with the above

What people ask:

    explain      why each model got what it got (explain_model: one of them; room_for: why not one
                 more; rules_text: rules in words)
    changes      what-ifs as they are written; whatif: a changed world
    questions    which plans to make for a question (variations: their requests; relax: what
                 conflicts and what would help; flow: what runs them)
    api, worker  the door, and the same door in a process of its own

Devices of one kind are interchangeable until `assign`.
"""
