"""Compares prediction and measurement of one real mixed plan: two models, two length mixes.

    python -m bench.serving.mixed_plan [--pairs 4] [--seconds 30] [--folder .bench-mixed]
        [--objective max-goodput] [--json FILE] [--set engine.python=...]

The same command on a machine with GPUs plans and runs on these. Both models are measured (results
of an earlier run in the same folder are reused), planned together, applied, and loaded at once,
`--pairs` times each:

- full: every engine holds its operating batch, with requests sent directly to its socket; the
  plan's throughput, TTFT and TPOT are for this load;
- demand: Poisson arrivals at the rate that the plan says it serves, through the proxy.

Each measured figure (median of the rounds) is shown beside the plan's promise. The plan
assumes that CPU cores share nothing. Misses of more than 15 % are listed.
"""

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.serving import mixed_load
from bench.serving.demo_fleet import DemoFleet, demo_fleet, options_parser
from bench.serving.promises import (
    TOLERANCE,
    ComparedFigure,
    Difference,
    OfferedLoad,
    Outcome,
    Promise,
    differences,
    promises,
)
from examples.demo import steps as demo_steps
from partitiond.cli.plan.up import register_or_update
from partitiond.core.errors import PartitiondError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Objective, Plan
from partitiond.core.profile.record import Profile

LENGTHS = (Workload(160, 16), Workload.lognormal(64, 32, 0.7, 0.7))
"""Lengths of the first and the second model: long prompts with short outputs, and mixed."""
UNBOUNDED_QUANTILE = 0.95
"""Without an SLO, this share of requests has to be answered at all. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One figure of one model: the plan's value, and the measured value.

    Attributes:
        rounds: the measured figure, round by round.
    """

    plan: Difference
    rounds: tuple[float, ...]


def mixed_specs(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """The demo's two models, each with lengths of its own."""
    return [
        dataclasses.replace(spec, workload=workload)
        for spec, workload in zip(specs, LENGTHS, strict=True)
    ]


def measured_profiles(fleet: DemoFleet, specs: Sequence[ModelSpec]) -> dict[str, Profile]:
    """Register both models, measure those without a usable profile, and return all by id."""
    client = fleet.client
    for spec in specs:
        register_or_update(client, spec)
    on_cpu = any(device.id == "cpu" for device in client.devices())
    for spec in specs:
        fleet.measure(spec, 1 if on_cpu else None)
    return {profile.id: profile for spec in specs for profile in client.profiles(spec.name)}


def make_plan(fleet: DemoFleet, objective: Objective) -> Plan:
    """Make a plan and apply it."""
    preview = fleet.client.plan(objective)
    if preview.infeasible is not None:
        raise PartitiondError("there is no plan: " + "; ".join(preview.infeasible.reasons))
    demo_steps.apply(fleet.story, fleet.client, preview.plan)
    return preview.plan


async def measured(
    fleet: DemoFleet, plan: Plan, specs: Sequence[ModelSpec], given: argparse.Namespace
) -> dict[OfferedLoad, list[dict[str, Outcome]]]:
    """Measure both loads in turn, with the order reversed from round to round."""
    sockets = {view.replica_id: view.socket_path for view in fleet.client.replicas()}
    by_name = {spec.name: spec for spec in specs}
    told = promises(plan)
    found: dict[OfferedLoad, list[dict[str, Outcome]]] = {load: [] for load in OfferedLoad}
    for turn in range(given.pairs):
        for load in OfferedLoad if turn % 2 == 0 else reversed(OfferedLoad):
            seed = 1000 * turn
            if load is OfferedLoad.FULL:
                run = mixed_load.full(plan, by_name, sockets, seconds=given.seconds, seed=seed)
            else:
                run = mixed_load.demand(
                    fleet.settings.proxy_url, told, by_name, seconds=given.seconds, seed=seed
                )
            outcome = await run
            found[load].append(outcome)
            rates = ", ".join(
                f"{name} {one.output_tokens_per_s:.1f} tok/s" for name, one in outcome.items()
            )
            print(f"round {turn + 1}/{given.pairs} {load.value}: {rates}", flush=True)
    return found


def rows_of(
    told: Sequence[Promise],
    rounds: Mapping[OfferedLoad, Sequence[Mapping[str, Outcome]]],
    quantiles: Mapping[str, float],
) -> Iterator[Row]:
    """Every figure: the median of its rounds beside the predictions."""
    for load, runs in rounds.items():
        for promise in told:
            quantile = quantiles[promise.model]
            each = [differences(promise, run[promise.model], load, quantile) for run in runs]
            for figure in ComparedFigure:
                mine = [one for found in each for one in found if one.figure is figure]
                if mine:
                    values = tuple(one.got for one in mine)
                    middle = dataclasses.replace(mine[0], got=statistics.median(values))
                    yield Row(middle, values)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each figure, then the medians of the errors and the misses."""
    yield (
        f"{'model':<16} {'load':<7} {'figure':<11} {'promised':>9} {'measured':>9}  "
        f"{'rounds':<19} {'plan off':>8}"
    )
    for row in rows:
        one = row.plan
        spread = f"{_shown(min(row.rounds))} to {_shown(max(row.rounds))}"
        yield (
            f"{one.model:<16} {one.load.value:<7} {one.figure.value:<11} "
            f"{_shown(one.promised):>9} {_shown(one.got):>9}  {spread:<19} {one.error:>+8.1%}"
        )
    yield ""
    yield from summary(rows)


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Median and worst errors of the plan; then every miss."""
    at_full = [row for row in rows if row.plan.load is OfferedLoad.FULL]
    plan = [abs(row.plan.error) for row in at_full]
    yield _errors("the plan, at its operating points", plan)
    kept = [row for row in rows if row.plan.load is OfferedLoad.DEMAND]
    yield f"at the demand {sum(not r.plan.is_miss for r in kept)} of {len(kept)} promises were kept"
    for row in rows:
        if row.plan.is_miss:
            one = row.plan
            yield (
                f"missed: {one.model} {one.load.value} {one.figure.value}, promised "
                f"{_shown(one.promised)}, measured {_shown(one.got)} ({one.error:+.1%})"
            )


def _errors(what: str, errors: Sequence[float]) -> str:
    if not errors:
        return f"{what}: nothing to compare"
    verdict = "within" if statistics.median(errors) <= TOLERANCE else "beyond"
    return (
        f"{what}: median error {statistics.median(errors):.1%} ({verdict} the goal of "
        f"{TOLERANCE:.0%}), worst {max(errors):.1%}"
    )


def _shown(value: float) -> str:
    return f"{value:.4g}"


def main() -> int:
    parser = options_parser(__doc__ or "", pairs=4, seconds=30.0, folder=".bench-mixed")
    parser.add_argument("--objective", type=Objective, default=Objective.MAX_GOODPUT)
    parser.add_argument("--json", type=Path, default=None, help="every figure, into this file")
    given = parser.parse_args()
    with demo_fleet(given, models=2) as fleet:
        specs = mixed_specs(fleet.specs)
        measured_profiles(fleet, specs)
        plan = make_plan(fleet, given.objective)
        rounds = asyncio.run(measured(fleet, plan, specs, given))
    quantiles = {s.name: s.slo.quantile if s.slo else UNBOUNDED_QUANTILE for s in specs}
    rows = list(rows_of(promises(plan), rounds, quantiles))
    for p in plan.placements:
        print(f"{p.replica_id}: {p.candidate.size.key} of {p.device_id}, batch {p.candidate.batch}")
    print("\n".join(table(rows)))
    if given.json is not None:
        given.json.write_text(json.dumps([_plain(row) for row in rows], indent=1) + "\n", "utf-8")
    return 0


def _plain(row: Row) -> dict[str, object]:
    return {
        **dataclasses.asdict(row.plan),
        "error": row.plan.error,
        "rounds": row.rounds,
    }


if __name__ == "__main__":
    sys.exit(main())
