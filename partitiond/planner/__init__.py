"""The planner: which replica of which model runs on which partition of which device.

The question is a bin packing with choices: a device takes one sharing mode, and its level of
interference (`core.interference`) follows from what it holds. At a given mode and level all limits
of a device are linear, and a model's demand is covered by any mix of its candidates. The parts:

The question, as integers:

    candidates   profiles to candidates: operating points with margins
    instance     floats rounded outwards, here only (figures: how; types: what it is made of;
                 needs, options, pools: its models, ways to run a device, and what is shared;
                 dominated: sizes that another size beats)
    costs, draw  the objectives by name: devices and replicas in the solver's integers, a plan's
                 value in its true figures; power, host cores and host memory of a replica
    ties         what placement rules tie together; rules: what they ask of a packing
    sites        the instance as flat arrays by class of device and sharing mode
    kernels      compiled loops, and all of numba (loads: what devices hold, and at which level;
                 anneal: the search; branch, covers, duals, pricing: the market's)

What no plan can beat:

    prices       a linear program with all devices of one class poured together (pours: its
                 columns), and the bound that follows from its prices
    market       column generation over whole replicas on whole devices: models buy replicas, and
                 devices sell them, at prices that are functions of a rate

Plans:

    packing      which items are on which abstract device: the state all members work on
    adding       where one more replica goes, with every rule kept
    complete     greedy plans by it: what is missing is added, devices are emptied and filled anew
    keeping      what runs (running), completed, and improved within a budget of moves
    baselines    first-fit and best-fit decreasing, to compare with
    exact        the same question as CP-SAT, hinted with the best so far, where it is small
    improve      ruin and recreate in compiled code, by simulated annealing (annealing: its arrays;
                 searching: its time)
    market       the same sets as an integer program, solved again and again beside the search
    rule_search  CP-SAT over a few devices at a time, for rules that go beyond one device
    scale        the largest common factor, for max-min and max-headroom
    priorities   what is better and what is proven by priority, one after the other
    portfolio    runs the members, keeps the best (members, progress, found: its parts)

From a packing to a plan:

    share        what is left over, by weight
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
