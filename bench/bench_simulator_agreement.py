"""The fleet simulator against the real system: the same plan, the same requests, both ways.

    python -m bench.bench_simulator_agreement [--models 2] [--factors 0.5 0.9 1.3] [--pairs 3]
        [--seconds 60] [--kind burst] [--engine vllm] [--folder .bench-mixed] [--json FILE]

Models are measured first (what an earlier run on the folder measured is used again), planned and
applied by a real daemon. Then requests are sent through the real proxy to the real engines by the
load generator, open loop, at each factor of what the plan says it serves; and the very same
requests, times and lengths, go to the fleet simulator, whose engines step by the measured profiles.
Compared are throughput, goodput, TTFT and TPOT: medians of the rounds, the error is
(simulated - measured) / measured. On a machine that does something else the real side is slower,
and the errors say that instead.
"""

import asyncio
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.bench_mixed_plan import LENGTHS, make_plan, measured_profiles
from bench.demo_fleet import DemoFleet, demo_fleet, options_parser
from bench.mixed_load import load_of
from loadgen import OpenLoopResult, Outcome, open_loop
from loadgen import Slo as Bounds
from loadgen.statistics import is_good, percentile
from partitiond.core.plan import Objective, Plan
from partitiond.core.profile import Profile
from partitiond.core.spec import ModelSpec
from partitiond.simulation.fleet.arrivals import Arrival, Kind, Made, offsets, requests
from partitiond.simulation.fleet.report import ModelReport
from partitiond.simulation.fleet.run import FleetOptions, FleetRun
from partitiond.simulation.models import best_known
from partitiond.simulation.promise import promises

WARM_UP_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 120.0
FIGURES: Final = (
    "output tokens/s", "goodput/s", "refused", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"
)  # fmt: skip
Figures = dict[str, float]
SEEDS_APART: Final = 1000


@dataclasses.dataclass(frozen=True)
class Round:
    """One load: what is sent to each model.

    Attributes:
        rates: requests/s by model.
        seed: of times and lengths; each model's is its own.
    """

    rates: Mapping[str, float]
    made: Made
    seed: int
    seconds: float

    def seed_of(self, model: str) -> int:
        """Its own."""
        return self.seed + list(self.rates).index(model)

    def times(self, model: str) -> Iterator[float]:
        """When its requests are due."""
        return offsets(self.made, self.rates[model], self.seed_of(model))


async def measured(
    url: str, specs: Mapping[str, ModelSpec], sent: Round
) -> dict[str, OpenLoopResult]:
    """All models at once, through the real proxy."""
    results = await asyncio.gather(
        *(
            open_loop(
                url,
                load_of(specs[name], sent.seed_of(name)),
                arrivals=sent.times(name),
                seconds=sent.seconds,
                warmup_seconds=WARM_UP_SECONDS,
                timeout_seconds=REQUEST_SECONDS,
            )
            for name in sent.rates
        )
    )
    return dict(zip(sent.rates, results, strict=True))


def figures_of(result: OpenLoopResult, spec: ModelSpec, seconds: float) -> Figures:
    """What was measured, in `FIGURES`."""
    ended = [r for r in result.arrivals if r.outcome is Outcome.OK]
    slo = spec.slo
    bounds = None if slo is None else Bounds(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)
    good = len(ended) if bounds is None else sum(is_good(record, bounds) for record in ended)
    ttft, tpot = sorted(result.samples.ttft), sorted(result.samples.tpot)
    tokens = sum(record.output_tokens for record in ended)
    return _figures(
        tokens / seconds,
        good / seconds,
        result.count(Outcome.REFUSED) / max(1, len(result.arrivals)),
        [percentile(values, p) for values in (ttft, tpot) for p in (0.5, 0.95) if values],
    )


def simulated_figures(report: ModelReport, seconds: float) -> Figures:
    """The same of the simulation."""
    served = report.served
    latencies = [served.ttft.p50, served.ttft.p95, served.tpot.p50, served.tpot.p95]
    return _figures(
        served.output_tokens / seconds,
        served.goodput_req_per_s,
        sum(served.refused.values()) / max(1, served.arrivals),
        [value for value in latencies if value is not None],
    )


def _figures(tokens: float, good: float, refused: float, latencies: Sequence[float]) -> Figures:
    return dict(zip(FIGURES, (tokens, good, refused, *latencies), strict=False))


def simulated(
    fleet: DemoFleet,
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    profiles: Mapping[str, Profile],
    sent: Round,
) -> dict[str, Figures]:
    """The same requests, in simulated time."""
    engine_of = best_known(specs, {d.id: d for d in plan.devices}, profiles=profiles)
    limits = fleet.settings.proxy
    options = FleetOptions(
        sent.seconds,
        WARM_UP_SECONDS,
        seed=sent.seed,
        max_queue=limits.max_queue,
        max_wait_seconds=limits.max_wait_seconds,
    )
    arrivals: dict[str, Iterator[Arrival]] = {
        name: requests(sent.times(name), specs[name].workload, sent.seed_of(name))
        for name in sent.rates
    }
    report = FleetRun(plan, specs, engine_of, options).run(arrivals)
    return {one.model: simulated_figures(one, sent.seconds) for one in report.models}


def table(rows: Sequence[tuple[float, str, str, float, float, float]]) -> Iterator[str]:
    """One line for each figure, then the errors by figure."""
    yield (
        f"{'load':>5} {'model':<16} {'figure':<16} {'measured':>9} {'spread':>7} "
        f"{'simulated':>9} {'error':>7}"
    )
    errors: dict[str, list[float]] = {}
    for factor, model, figure, real, spread, made in rows:
        error = made - real if figure == "refused" else made / real - 1 if real else 0.0
        errors.setdefault(figure, []).append(abs(error))
        yield (
            f"{factor:>5.2f} {model:<16} {figure:<16} {real:>9.4g} {spread:>6.0%} {made:>9.4g} "
            f"{error:>+7.1%}"
        )
    yield "\nabsolute errors (of refused: difference in share)"
    for figure, found in errors.items():
        yield f"  {figure:<16} median {statistics.median(found):>6.1%}  worst {max(found):>6.1%}"


def compared(
    factor: float, real: Sequence[Mapping[str, Figures]], made: Sequence[Mapping[str, Figures]]
) -> Iterator[tuple[float, str, str, float, float, float]]:
    """Medians of the rounds, with what the real ones differ by."""
    for model in real[0]:
        for figure in FIGURES:
            measured_ones = [one[model][figure] for one in real if figure in one[model]]
            simulated_ones = [one[model][figure] for one in made if figure in one[model]]
            if measured_ones and simulated_ones:
                middle = statistics.median(measured_ones)
                spread = (max(measured_ones) - min(measured_ones)) / middle if middle else 0.0
                yield factor, model, figure, middle, spread, statistics.median(simulated_ones)


def main() -> int:
    """Measure, simulate, compare."""
    parser = options_parser(__doc__ or "", pairs=3, seconds=60.0, folder=".bench-mixed")
    parser.add_argument("--models", type=int, choices=(1, 2), default=2)
    parser.add_argument(
        "--engine",
        choices=["vllm", "simulated"],
        default="vllm",
        help="simulated: the daemon's stand-in for an engine, which computes nothing",
    )
    parser.add_argument("--factors", type=float, nargs="*", default=[0.5, 0.9, 1.3])
    parser.add_argument("--kind", choices=[kind.value for kind in Kind], default="burst")
    parser.add_argument("--json", type=Path, default=None, help="every figure, into this file")
    given = parser.parse_args()
    rows: list[tuple[float, str, str, float, float, float]] = []
    with demo_fleet(given, models=given.models) as fleet:
        chosen = [
            dataclasses.replace(spec, workload=workload, engine_kind=given.engine)
            for spec, workload in zip(fleet.specs, LENGTHS, strict=False)
        ]
        specs = {spec.name: spec for spec in chosen}
        profiles = measured_profiles(fleet, chosen)
        plan = make_plan(fleet, Objective.MAX_GOODPUT)
        served = {one.model: one.served_req_per_s for one in promises(plan)}
        for factor in given.factors:
            real, made = [], []
            for turn in range(given.pairs):
                rates = {name: factor * rate for name, rate in served.items()}
                sent = Round(rates, Made(Kind(given.kind)), SEEDS_APART * turn, given.seconds)
                found = asyncio.run(measured(fleet.settings.proxy_url, specs, sent))
                real.append(
                    {
                        name: figures_of(one, specs[name], sent.seconds)
                        for name, one in found.items()
                    }
                )
                made.append(simulated(fleet, plan, specs, profiles, sent))
                print(f"factor {factor:g}, round {turn + 1} of {given.pairs}", flush=True)
            rows += compared(factor, real, made)
    print("\n".join(table(rows)))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
