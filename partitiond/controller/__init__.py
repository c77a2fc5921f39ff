"""Makes the host run what the applied plan says, in one loop.

    observe -> reconcile (pure, in the core) -> act -> publish routes -> wait for a reason to look

Each thing has one owner, which alone writes it:

- `loop.Controller` owns the list of engines, the wanted placements and the routing table;
- each `engines.Engine` owns one engine's state; the loop asks it to drain or stop, and it wakes
  the loop when it became ready or ended;
- `jobs.JobQueue` owns the jobs, each of which runs on a partition leased from the loop;
- `planning.PlanMaker` makes plans and remembers which of them can still be applied;
- `chain.Chain` takes a registered model from estimate over profile to plan;
- `assembly.Parts` makes each of them, and `service.Service` names those that callers may use;
  `service.Daemon` starts and ends them.

Everything but the adapters runs on one event loop, so a decision and the acts that follow it are
never torn apart: nothing is awaited between observing engines and acting on them.
"""
