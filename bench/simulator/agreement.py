"""Compares the fleet simulator with the real system on the same plan and the same requests.

    python -m bench.simulator.agreement [--models 2] [--factors 0.3 0.6 0.9 1.2]
        [--pairs 2] [--seconds 300] [--kind burst] [--engine vllm]
        [--folder .bench-agreement] [--traces FOLDER] [--json FILE]
    python -m bench.simulator.agreement --from FOLDER [--json FILE]

One command is the whole protocol. Models are measured first (measurements of an earlier run on the
folder are reused), planned and applied by a real daemon. Then the load generator sends requests of
mixed lengths through the real proxy to the real engines, open loop: `--pairs` times the very same
requests at each of `--factors` of the rate that the plan says it serves. All records are stored in
`--traces`. The simulator gets their times and lengths, and the measured profiles.

The comparison is over admitted requests: (simulated - measured) / measured, the mean of the runs,
beside the difference of the runs from each other, which no prediction can beat. `--from` repeats
everything but the measuring, on the files of an earlier run. On a machine with other work the real
side is slower, and the errors show that instead.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.serving.demo_fleet import demo_fleet, options_parser
from bench.serving.mixed_plan import make_plan, measured_profiles
from bench.serving.promises import promises
from bench.simulator.agreement_table import FIGURES, Row, table
from bench.simulator.agreement_traces import (
    RunHead,
    Setup,
    Trace,
    load,
    measured,
    repeated,
    store,
    store_setup,
)
from loadgen import Outcome
from loadgen import Slo as Bounds
from loadgen.results.records import Record
from loadgen.results.statistics import is_good, percentile
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Objective
from partitiond.simulated.fleet.arrivals import Arrival, ArrivalKind, SyntheticArrivals
from partitiond.simulated.fleet.engine_model import best_known
from partitiond.simulated.fleet.report import ModelReport
from partitiond.simulated.fleet.run import FleetOptions, FleetRun

LENGTHS: Final = (Workload.lognormal(160, 16, 0.7, 0.7), Workload.lognormal(64, 32, 0.7, 0.7))
"""Lengths of the first and the second model: long prompts; short prompts with longer outputs."""
Figures = dict[str, float]
SEEDS_APART: Final = 1000


# --- the real side -------------------------------------------------------------------------------


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run every load on the real system, and store the results."""
    made = SyntheticArrivals(ArrivalKind(given.kind))
    with demo_fleet(given, models=given.models) as fleet:
        chosen = [
            dataclasses.replace(spec, workload=workload, engine_kind=given.engine)
            for spec, workload in zip(fleet.specs, LENGTHS, strict=False)
        ]
        profiles = measured_profiles(fleet, chosen)
        plan = make_plan(fleet, Objective.MAX_GOODPUT)
        limits = fleet.settings.proxy
        setup = Setup(
            plan,
            tuple(chosen),
            tuple(profiles.values()),
            limits.max_queue,
            limits.max_wait_seconds,
        )
        store_setup(folder, setup)
        served = {one.model: one.served_req_per_s for one in promises(plan)}
        for number, (factor, turn) in enumerate(schedule(given)):
            rates = {name: factor * rate for name, rate in served.items()}
            seed = SEEDS_APART * round(100 * factor)
            head = RunHead(factor, turn, rates, seed, given.seconds)
            store(folder, asyncio.run(measured(fleet, setup, head, made)))
            print(f"run {number + 1} at {factor:g}, turn {turn + 1}", flush=True)


def schedule(given: argparse.Namespace) -> Iterator[tuple[float, int]]:
    """Every run: its load, and its turn among equal runs.

    Equal runs are as far apart as possible, so that a drift shows in them.
    """
    for turn in range(given.pairs):
        yield from ((factor, turn) for factor in given.factors)


def admitted(trace: Trace, model: str) -> list[Record]:
    """Requests of the window that were answered."""
    run = trace.runs[model]
    return [
        record
        for record in run.records
        if record.outcome is Outcome.OK
        and record.scheduled is not None
        and run.opened <= record.scheduled < run.closed
    ]


def figures_of(trace: Trace, spec: ModelSpec) -> Figures:
    """The measured values of `FIGURES`."""
    run, slo, seconds = trace.runs[spec.name], spec.slo, trace.head.seconds
    ended = admitted(trace, spec.name)
    due = [r for r in run.records if run.opened <= (r.scheduled or 0.0) < run.closed]
    bounds = None if slo is None else Bounds(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)
    good = len(ended) if bounds is None else sum(is_good(record, bounds) for record in ended)
    ttft = sorted(record.ttft for record in ended if record.ttft is not None)
    tpot = sorted(record.tpot for record in ended if record.tpot is not None)
    return _figures(
        sum(record.output_tokens for record in ended) / seconds,
        good / seconds,
        sum(record.outcome is Outcome.REFUSED for record in due) / max(1, len(due)),
        [percentile(values, p) for values in (ttft, tpot) for p in (0.5, 0.95) if values],
    )


def _figures(tokens: float, good: float, refused: float, latencies: Sequence[float]) -> Figures:
    return dict(zip(FIGURES, (tokens, good, refused, *latencies), strict=False))


def _prompt_tokens(record: Record) -> int:
    return record.prompt_tokens or record.wanted_prompt_tokens


# --- the simulated side --------------------------------------------------------------------------


def simulated(setup: Setup, trace: Trace) -> dict[str, Figures]:
    """The same requests in simulated time, by the profiles."""
    plan, specs = setup.plan, {spec.name: spec for spec in setup.specs}
    engine_of = best_known(
        specs,
        {device.id: device for device in plan.devices},
        {},
        {profile.id: profile for profile in setup.profiles},
    )
    head = trace.head
    options = FleetOptions(
        head.seconds,
        head.warm_up_seconds,
        seed=head.seed,
        max_queue=setup.max_queue,
        max_wait_seconds=setup.max_wait_seconds,
    )
    arrivals = {name: iter(arrivals_of(trace, name)) for name in head.rates}
    report = FleetRun(plan, specs, engine_of, options).run(arrivals)
    return {one.model: simulated_figures(one, head.seconds) for one in report.models}


def arrivals_of(trace: Trace, model: str) -> list[Arrival]:
    """The requests that were sent, from the start of the warm-up."""
    return sorted(
        (
            (record.scheduled or 0.0) + trace.head.warm_up_seconds,
            _prompt_tokens(record),
            record.output_tokens if record.outcome is Outcome.OK else record.wanted_output_tokens,
        )
        for record in trace.runs[model].records
    )


def simulated_figures(report: ModelReport, seconds: float) -> Figures:
    """The same figures of the simulation."""
    served = report.served
    latencies = [served.ttft.p50, served.ttft.p95, served.tpot.p50, served.tpot.p95]
    return _figures(
        served.output_tokens / seconds,
        served.goodput_req_per_s,
        sum(served.refused.values()) / max(1, served.arrivals),
        [value for value in latencies if value is not None],
    )


# --- the comparison ------------------------------------------------------------------------------


def compare(setup: Setup, traces: Sequence[Trace]) -> Iterator[Row]:
    """Every figure of every model at every tested load."""
    for runs in repeated(traces):
        found_by = simulated(setup, runs[0])
        for spec in setup.specs:
            real = [figures_of(trace, spec) for trace in runs]
            for figure in FIGURES:
                found = (*real, found_by[spec.name])
                if all(figure in one for one in found):
                    yield Row(
                        runs[0].head.load,
                        spec.name,
                        figure,
                        tuple(one[figure] for one in real),
                        found_by[spec.name][figure],
                    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, simulate and compare."""
    given = _parser().parse_args(argv)
    folder = given.stored or given.traces or given.folder / "traces"
    if given.stored is None:
        measure(given, folder)
    setup, traces = load(folder)
    rows = list(compare(setup, traces))
    print("\n".join(table(rows)))
    if given.json is not None:
        plain = [dataclasses.asdict(row) for row in rows]
        given.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options_parser(__doc__ or "", pairs=2, seconds=300.0, folder=".bench-agreement")
    parser.add_argument("--models", type=int, choices=(1, 2), default=2)
    parser.add_argument(
        "--engine",
        choices=["vllm", "simulated"],
        default="vllm",
        help="simulated: the daemon's stand-in for an engine, which computes nothing",
    )
    parser.add_argument("--factors", type=float, nargs="+", default=[0.3, 0.6, 0.9, 1.2])
    parser.add_argument("--kind", choices=[kind.value for kind in ArrivalKind], default="burst")
    parser.add_argument("--traces", type=Path, default=None, help="what was measured, kept here")
    parser.add_argument(
        "--from", type=Path, default=None, dest="stored", help="what an earlier run kept; no engine"
    )
    parser.add_argument("--json", type=Path, default=None, help="every figure, into this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
