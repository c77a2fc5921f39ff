"""Compares replanning with planning afresh: `python -m bench.planner.replanning [--size 1000x512]`.

A plan runs; then 10 % of the demands change (by U(0.5, 1.5)), or one GPU dies. Three plans are made
for the new situation:

    fresh      as if nothing ran, in --fresh seconds; its devices are then assigned so that the
               most replicas stay where they run (the baseline)
    soon       from the running plan, within --soon seconds in all, at the default price of a move
    later      from the running plan, in --later seconds, at the same price

For each plan the output has: wall-clock seconds for everything except the process start, the
objective's value, its gap to the fresh plan's (below 0: better), and the share of the running
replicas that has to be loaded anew elsewhere (moved) or is stopped without a replacement. "reload
ratio" is moves of the fresh plan over moves of this plan. All plans must pass `check`. The compiled
parts are loaded once beforehand, as in a daemon's planner.
"""

import argparse
import dataclasses
import random
import time

from bench.command import options
from bench.planner.shipped import request
from partitiond.core.plan.record import MOVE_PRICE, Plan, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.running import running_packing

CHANGED = 0.1
EVENTS = ("demands", "dead-gpu")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One plan made after the event."""

    seconds: float
    value: float
    moved: float
    stopped: float


def main() -> None:
    """Run all chosen events on all chosen instances."""
    given = _options()
    models, gpus = (int(n) for n in given.size.split("x"))
    seeds = range(given.first, given.first + given.seeds)
    print(
        f"{models} models x {gpus} GPUs, seeds {seeds[0]}..{seeds[-1]}; load of the machine counts"
    )
    head = f"{'instance':>16} {'event':>9} {'plan':>6} {'seconds':>8} {'value':>10} {'to fresh':>9}"
    print(f"{head} {'moved':>7} {'stopped':>8} {'reload ratio':>13}", flush=True)
    for kind in ("slack", "over"):
        plan_of(request(kind, 100, 64, 1, 3.0))
    for kind in given.kinds.split(","):
        for seed in seeds:
            asked = request(kind, models, gpus, seed, given.fresh)
            runs = plan_of(asked)
            print(f"{kind:>16} {'':>9} {'runs':>6} {'':>8} {runs.certificate.value:>10,.6g}")
            for event in given.events.split(","):
                _measure(given, asked, runs, event, f"{kind} {given.size} #{seed}")


def _options() -> argparse.Namespace:
    parser = options(__doc__, kinds="slack,over", events=",".join(EVENTS))
    parser.add_argument("--size", default="1000x512", help="models x GPUs")
    parser.add_argument("--seeds", type=int, default=1, help="instances of each kind")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--fresh", type=float, default=60.0, help="seconds of a fresh plan")
    parser.add_argument("--soon", type=float, default=2.5, help="seconds of the first new plan")
    parser.add_argument("--later", type=float, default=30.0, help="seconds of the one after it")
    return parser.parse_args()


def _measure(
    given: argparse.Namespace, asked: PlanRequest, runs: Plan, event: str, name: str
) -> None:
    changed = _after(asked, event)
    found = {
        "fresh": _fresh(changed, runs, given.fresh),
        "soon": _again(changed, runs, given.soon),
        "later": _again(changed, runs, given.later),
    }
    sign = 1 if asked.objective.is_cost else -1
    best = found["fresh"].value
    for plan, outcome in found.items():
        gap = sign * (outcome.value - best) / max(best, 1e-9)
        ratio = found["fresh"].moved / max(outcome.moved, 1 / max(1, len(runs.placements)))
        print(
            f"{name:>16} {event:>9} {plan:>6} {outcome.seconds:>8.2f} {outcome.value:>10,.6g} "
            f"{gap:>9.2%} {outcome.moved:>7.1%} {outcome.stopped:>8.1%} {ratio:>13.1f}",
            flush=True,
        )


def _after(asked: PlanRequest, event: str) -> PlanRequest:
    """The request after the event."""
    rng = random.Random(f"{event}-{asked.seed}")
    if event == "dead-gpu":
        dead = rng.randrange(len(asked.devices))
        return dataclasses.replace(
            asked, devices=tuple(d for n, d in enumerate(asked.devices) if n != dead)
        )
    changed = set(rng.sample(range(len(asked.models)), round(CHANGED * len(asked.models))))
    return dataclasses.replace(
        asked,
        models=tuple(
            dataclasses.replace(
                m,
                demand=dataclasses.replace(
                    m.demand, req_per_s=(m.demand.req_per_s or 0.0) * rng.uniform(0.5, 1.5)
                ),
            )
            if n in changed
            else m
            for n, m in enumerate(asked.models)
        ),
    )


def plan_of(asked: PlanRequest) -> Plan:
    """The plan; the benchmark ends if there is none."""
    plan = solve(asked)
    if not isinstance(plan, Plan):
        raise SystemExit(f"no plan at all: {plan.reasons[0]}")
    return plan


def _fresh(changed: PlanRequest, runs: Plan, seconds: float) -> Outcome:
    """Plan without regard to the running plan; then assign devices so that the most stays."""
    asked = dataclasses.replace(changed, time_limit_seconds=seconds)
    began = time.perf_counter()
    plan = plan_of(asked)
    took = time.perf_counter() - began
    # The plan's packing, rebuilt from its placements as if they ran.
    own = build_instance(dataclasses.replace(asked, running=plan.placements))
    packing = running_packing(own)
    near = build_instance(dataclasses.replace(asked, running=runs.placements))
    packing.instance = near
    return _outcome(plan, runs, assign(near, packing), took)


def _again(changed: PlanRequest, runs: Plan, seconds: float) -> Outcome:
    asked = dataclasses.replace(
        changed,
        running=runs.placements,
        time_limit_seconds=seconds,
        move_price=MOVE_PRICE,
    )
    began = time.perf_counter()
    plan = plan_of(asked)
    return _outcome(plan, runs, plan.placements, time.perf_counter() - began)


def _outcome(plan: Plan, runs: Plan, placements: tuple[object, ...], seconds: float) -> Outcome:
    diff = diff_plans(runs.placements, placements)  # type: ignore[arg-type]
    there = max(1, len(runs.placements))
    return Outcome(
        seconds, plan.certificate.own_value, len(diff.move) / there, len(diff.stop) / there
    )


if __name__ == "__main__":
    main()
