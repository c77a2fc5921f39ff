"""Plans which replica of which model runs on which partition of which device.

The problem is a bin packing with choices: a device takes one sharing mode, and its level of
interference (`core.performance.interference`) follows from what it holds. At a given mode and level
all limits of a device are linear, and a model's demand is covered by any mix of its candidates. The
parts:

The problem, as integers:

    candidates   makes candidates of profiles: operating points with margins
    instance     floats rounded outwards, here only (figures: the rounding; types: its records;
                 needs, options, pools: its models, ways to run a device, and shared limits;
                 dominated: removes sizes that another size beats)
    costs, draw  the objectives by name: devices and replicas in the solver's integers, a plan's
                 value in its true figures; power, host cores and host memory of a replica
    ties         models tied together by placement rules; rules: checks packings against the rules
    sites        the instance as flat arrays by class of device and sharing mode
    kernels      compiled loops, and all uses of numba (loads: contents and level of each device;
                 anneal: the search; branch, covers, duals, pricing: the market's kernels)

Bounds that no plan can beat:

    prices       a linear program with all devices of one class poured together (pours: its
                 columns), and the bound that follows from its dual prices
    market       column generation over whole replicas on whole devices: models buy replicas, and
                 devices sell them, at prices that are functions of a rate

Plans:

    packing      the items on each abstract device: the state that all members work on
    adding       chooses a place for one more replica that keeps every rule
    complete     greedy plans: adds what is missing, empties devices and fills them anew
    keeping      completes the running replicas (running), and improves them within a move budget
    baselines    first-fit and best-fit decreasing, for comparison
    exact        the same problem in CP-SAT, hinted with the best plan so far, if it is small
    improve      ruin and recreate in compiled code, by simulated annealing (annealing: its arrays;
                 searching: its schedule)
    market       the same sets as an integer program, solved repeatedly beside the search
    rule_search  CP-SAT over a few devices at a time, for rules that go beyond one device
    scale        the largest common factor, for max-min and max-headroom
    priorities   compares and proves plans priority by priority
    portfolio    runs the members and keeps the best plan (members, progress, found: its parts)

From a packing to a plan:

    share        shares out spare capacity by weight
    nearest      chooses, among equally good plans, the one nearest to what runs
    assign       abstract devices to real ones with the fewest moves; replica ids (slices: the start
                 of each MIG instance; cores: the cores of each engine)
    certify      states what is proven of the plan, in its true figures
    check        reports what is wrong with a plan, sharing no code with the above

Answers to users' questions:

    explain      why each model got its place (explain_model: one model; room_for: why not one
                 more replica; rules_text: rules in words)
    changes      parses what-ifs; whatif: a changed world
    questions    chooses the plans to make for a question (variations: their requests; relax:
                 conflicts and ways out; flow: runs them)
    api, worker  the entry point, and the same entry point in a separate process

Devices of one kind are interchangeable until `assign`.
"""
