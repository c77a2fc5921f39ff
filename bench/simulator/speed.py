"""Measures how fast the fleet simulator is: events and requests per second of CPU time.

    python -m bench.simulator.speed [--gpus 1000] [--requests 5000000] [--models 40] [--cells 8]
        [--load 0.8] [--workload burst] [--plan-seconds 10]

The fleet is of A100 80GB, eight to a host, for models of seven kinds whose demand exceeds its
capacity. The planner plans one cell, which is not timed, and all cells are alike; the whole is one
fleet, each model with one queue in front of its replicas in all cells. Then the fleet is simulated
on one core: dispatch, admission, engines, sharing of devices. Requests have lognormal lengths (220
in, 200 out in the mean) and come at `--load` times the rate that the plan says each model serves.
"""

import argparse
import dataclasses
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.command import options
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Infeasible, Objective, Placement, Plan
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import plan_fleet
from partitiond.models.catalog import entry_of
from partitiond.simulated.fleet.arrivals import ArrivalKind, SyntheticArrivals, made_up
from partitiond.simulated.fleet.engine_model import best_known
from partitiond.simulated.fleet.report import FleetReport
from partitiond.simulated.fleet.run import FleetOptions, FleetRun

KINDS: Final = (
    "smollm2-135m", "opt-125m", "qwen2.5-0.5b", "llama-3.2-1b", "opt-1.3b", "opt-2.7b", "opt-6.7b"
)  # fmt: skip
MODEL: Final = """
[[models]]
model = "{kind}"
name = "{name}"
demand = {{ req_per_s = {rate:.2f} }}
slo = {{ ttft_seconds = 2.0, tpot_seconds = 0.1 }}
workload = {{ shape = "lognormal", prompt_tokens = 220, output_tokens = 200, prompt_variation = 1.0, output_variation = 0.9 }}
"""  # noqa: E501 -- one line in a file's own syntax
DEMAND_PER_GPU: Final = 40.0
"""Requests/s: more than the GPUs can serve."""
WARM_UP_SHARE: Final = 0.05
"""Share of the requests that are simulated, too, but not counted."""


def fleet_of(models: int, gpus: int, folder: Path) -> Fleet:
    """A fleet of this many models and GPUs, from a file as users write them."""
    dice = random.Random(models)
    tables = [f'[[devices]]\nhardware = "a100-80gb"\ncount = {gpus}\nper_host = 8\ncores = 16\n']
    for number in range(models):
        rate = DEMAND_PER_GPU * gpus / models * dice.lognormvariate(-0.32, 0.8)
        kind = KINDS[number % len(KINDS)]
        tables.append(MODEL.format(kind=kind, name=f"m{number}", rate=rate))
    path = folder / "fleet.toml"
    path.write_text("".join(tables), encoding="utf-8")
    return load_fleet(path)


def repeated(plan: Plan, cells: int) -> Plan:
    """The plan for `cells` copies of the plan's own cell."""

    def moved(placement: Placement, cell: int) -> Placement:
        device_id = f"{placement.device_id}@{cell}"
        return dataclasses.replace(
            placement,
            replica_id=f"{placement.replica_id}@{cell}",
            device_id=device_id,
            partition=dataclasses.replace(placement.partition, device_id=device_id),
        )

    numbers = range(cells)
    return dataclasses.replace(
        plan,
        placements=tuple(moved(one, cell) for cell in numbers for one in plan.placements),
        devices=tuple(
            dataclasses.replace(one, id=f"{one.id}@{cell}", host=f"{one.host}@{cell}")
            for cell in numbers
            for one in plan.devices
        ),
        forecasts=tuple(
            dataclasses.replace(
                one,
                replicas=cells * one.replicas,
                capacity_req_per_s=cells * one.capacity_req_per_s,
            )
            for one in plan.forecasts
        ),
    )


def simulated(fleet: Fleet, plan: Plan, given: argparse.Namespace) -> FleetReport:
    """One run, long enough for the wanted number of requests."""
    specs = {spec.name: spec for spec in fleet.models}
    engine_of = best_known(
        specs,
        {device.id: device for device in plan.devices},
        _architecture,
    )
    demands = {
        forecast.model: (given.load * forecast.capacity_req_per_s, specs[forecast.model].workload)
        for forecast in plan.forecasts
    }
    rate = sum(one for one, _ in demands.values())
    seconds = given.requests / rate
    warm_up = WARM_UP_SHARE * seconds
    made = SyntheticArrivals(ArrivalKind(given.workload), period_seconds=seconds)
    wanted = FleetOptions(seconds=seconds, warm_up_seconds=warm_up, seed=given.seed)
    run = FleetRun(plan, specs, engine_of, wanted)
    return run.run(made_up(made, demands, given.seed))


def _architecture(spec: ModelSpec) -> Architecture:
    entry = entry_of(spec.source)
    assert entry is not None  # all `KINDS` are in the catalog
    return entry.architecture


def lines(plan: Plan, report: FleetReport) -> Iterator[str]:
    """The lines that are printed."""
    served, used = report.all.served, report.all.used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield (
        f"plan: {len(plan.placements)} replicas of {len(plan.forecasts)} models on "
        f"{report.devices_used} of {report.devices} GPUs, {plan.certificate.status.value}"
    )
    yield (
        f"simulated {report.seconds:.0f} s: {served.arrivals:,} requests, "
        f"{served.answered / max(1, served.arrivals):.2%} answered, attainment "
        f"{served.attainment or 0:.2%}, {report.preemptions:,} preemptions"
    )
    yield (
        f"TTFT p50/p95/p99 {_ms(served.ttft.p50)}/{_ms(served.ttft.p95)}/{_ms(served.ttft.p99)} "
        f"ms, TPOT {_ms(served.tpot.p50)}/{_ms(served.tpot.p95)}/{_ms(served.tpot.p99)} ms, "
        f"{used.gpu_hours:.0f} GPU hours, {used.kwh or 0:.0f} kWh"
    )
    yield (
        f"{report.events:,} events in {report.cpu_seconds:.1f} s of CPU time: "
        f"{report.events_per_s:,.0f} events/s, "
        f"{served.arrivals / report.cpu_seconds:,.0f} requests/s, {memory:.1f} GiB at most"
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"


def main() -> int:
    """Plan, simulate and print."""
    given = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        fleet = fleet_of(given.models, given.gpus // given.cells, Path(name))
    began = time.monotonic()
    plan = plan_fleet(fleet, objective=Objective.MAX_GOODPUT, time_limit_seconds=given.plan_seconds)
    if isinstance(plan, Infeasible):
        print("; ".join(plan.reasons))
        return 1
    print(f"planned in {time.monotonic() - began:.0f} s", flush=True)
    plan = repeated(plan, given.cells)
    report = simulated(fleet, plan, given)
    print("\n".join(lines(plan, report)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, gpus=1000, requests=5_000_000, models=40, seed=0)
    parser.add_argument("--cells", type=int, default=8, help="one of them is planned")
    parser.add_argument("--load", type=float, default=0.8, help="of what the plan says it serves")
    parser.add_argument("--workload", choices=[kind.value for kind in ArrivalKind], default="burst")
    parser.add_argument("--plan-seconds", type=float, default=10.0, help="time limit of the solve")
    return parser


if __name__ == "__main__":
    sys.exit(main())
