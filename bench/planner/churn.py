"""Measures the moves of small demand changes, with and without a price: `bench.planner.churn`.

The twelve models of examples/twelve-models.toml run on its GPUs. Then the demand of one model after
another is multiplied by 0.6 to 1.7, and after each change a plan is made and applied. The same
changes are made twice, each time from a first plan of its own:

    free      a move costs nothing (`planner.move_price = 0`), outages are allowed: the baseline
    priced    the default of daemons

The output has means over all changes: replicas that move or restart, replicas that stop, models
without a replica for a while, and devices used. "moves ratio" is the moves of the free plans over
those of the priced plans.
"""

import argparse
import dataclasses
import random
import statistics
import sys
from pathlib import Path

from bench.planner.replanning import plan_of
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import MOVE_PRICE, diff_plans
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import fleet_request
from partitiond.planner.model.types import PlanRequest

TWELVE = Path(__file__).parents[2] / "examples" / "twelve-models.toml"
POLICIES = {"free": (0.0, True), "priced": (MOVE_PRICE, False)}


@dataclasses.dataclass(frozen=True)
class Step:
    """The effects of one change."""

    moves: int
    stops: int
    outages: int
    devices: int


def main(words: list[str] | None = None) -> int:
    """Make the changes under both policies."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.planner.churn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="time limit of a solve")
    given = parser.parse_args(words)
    asked = fleet_request(load_fleet(TWELVE), time_limit_seconds=given.seconds)
    found = {
        name: _steps(dataclasses.replace(asked, move_price=price, allow_outage=outage), given)
        for name, (price, outage) in POLICIES.items()
    }
    for name, steps in found.items():
        moves, stops, outages, devices = (
            statistics.fmean(getattr(step, field.name) for step in steps)
            for field in dataclasses.fields(Step)
        )
        print(
            f"{name:>8}: {moves:.2f} moves, {stops:.2f} stops, {outages:.2f} outages a change, "
            f"{devices:.2f} devices in the mean of {len(steps)} changes"
        )
    free, priced = (sum(step.moves for step in found[name]) for name in POLICIES)
    print(f"moves ratio: {free}/{priced} = {free / max(1, priced):.1f}")
    return 0


def _steps(asked: PlanRequest, given: argparse.Namespace) -> list[Step]:
    rng = random.Random(given.seed)
    rated = [n for n, m in enumerate(asked.models) if m.demand.req_per_s]
    runs = plan_of(asked)
    steps = []
    for _ in range(given.changes):
        chosen, factor = rng.choice(rated), rng.uniform(0.6, 1.7)
        asked = _changed(asked, chosen, factor)
        plan = plan_of(dataclasses.replace(asked, running=runs.placements))
        diff = diff_plans(runs.placements, plan.placements)
        cost = diff_cost(diff, asked.devices)
        used = len({p.device_id for p in plan.placements})
        steps.append(Step(len(diff.move), len(diff.stop), len(cost.outages), used))
        runs = plan
    return steps


def _changed(asked: PlanRequest, chosen: int, factor: float) -> PlanRequest:
    """The request with another demand of one model."""
    models = list(asked.models)
    demand = models[chosen].demand
    more = dataclasses.replace(demand, req_per_s=(demand.req_per_s or 0.0) * factor)
    models[chosen] = dataclasses.replace(models[chosen], demand=more)
    return dataclasses.replace(asked, models=tuple(models))


if __name__ == "__main__":
    sys.exit(main())
