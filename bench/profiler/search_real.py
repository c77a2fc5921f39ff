"""Compares the trial search on a real engine with a dense reference on the same started engine.

    python -m bench.profiler.search_real MODEL... [--cores 1] [--max-batch 64] [--searches 2]
        [--prompt-tokens 160] [--output-tokens 16] [--min-window 10] [--max-window 60]

The reference measures every batch in steps of at most 1.25x, one pass up, one down, with the
profiler's own window rule, and then a fresh window at its best batch. Our search runs between and
after the passes (up, ours, down, ours), so that a drift of the machine reaches both sides. Figures
and all visits are written as JSON. MODEL is a catalog name, a Hugging Face id or a folder.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.profiler.side_by_side import (
    bench_of,
    cpu_of,
    memory_of,
    models_of,
    options_parser,
    settings_of,
    tell,
)
from bench.search.reference import Reading, full_trial, read, reference_batches
from loadgen import Workload as Load
from partitiond.core.errors import PartitiondError
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.profile.frontier import NEIGHBOUR_RATIO, TOLERANCE
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import prior_of
from partitiond.profiler.search import (
    NextTrial,
    Purpose,
    SearchDone,
    SearchLimits,
    Visit,
    curve,
    propose,
)
from partitiond.profiler.sweep.bench import Bench, Running
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.sweep import HALF_WIDTH_SHARE, warm_up
from partitiond.profiler.sweep.trial import run_trial
from partitiond.settings.schema import Settings

RESULTS: Final = Path(__file__).parents[1] / "results"
ALLOWED_LOSS: Final = TOLERANCE + 0.03
WARM_UP_TRIALS: Final = 2


@dataclasses.dataclass(frozen=True)
class Stand:
    """One started engine, and the load and limits of its measurements."""

    bench: Bench
    engine: Running
    load: Load
    limits: SearchLimits
    half_width_share: float

    async def trial(self, proposal: NextTrial, label: str) -> Visit:
        """Run one trial in the same way as the profiler."""
        await self.bench.until_idle(self.engine)
        trial = await self.bench.while_alive(
            self.engine,
            f"the trial with {proposal.batch} in flight",
            run_trial(
                self.bench,
                self.engine,
                self.load,
                proposal,
                half_width_share=self.half_width_share,
            ),
        )
        visit = trial.visit
        print(
            f"  {label:<9} {visit.purpose:<8} batch {visit.batch:>4}"
            f"{visit.output_tokens_per_s:>10.1f} ± {visit.half_width:<8.1f} tokens/s"
            f"{visit.seconds:>7.1f} s{'  kv limited' if visit.kv_limited else ''}",
            file=sys.stderr,
            flush=True,
        )
        return visit


@dataclasses.dataclass(frozen=True)
class Measured:
    """All visits of one model, in the order of the sides."""

    up: list[Visit]
    down: list[Visit]
    fresh: Visit
    searches: list[list[Visit]]


async def pass_up(stand: Stand) -> list[Visit]:
    """The reference's first pass."""
    visits: list[Visit] = []
    for batch in reference_batches(stand.limits.max_batch):
        proposal = full_trial(batch, Purpose.UP, stand.limits)
        visits.append(await stand.trial(proposal, "reference"))
        if visits[-1].beyond:
            break
    return visits


async def pass_down(stand: Stand, up: Sequence[Visit]) -> list[Visit]:
    """The reference's second pass, in the opposite order."""
    batches = [v.batch for v in reversed(up) if not v.beyond]
    return [
        await stand.trial(full_trial(b, Purpose.DOWN, stand.limits), "reference") for b in batches
    ]


async def search(stand: Stand) -> list[Visit]:
    """Run our search to its end."""
    visits: list[Visit] = []
    while True:
        elapsed = math.fsum(v.seconds for v in visits)
        proposal = propose(visits, stand.limits, elapsed)
        if isinstance(proposal, SearchDone):
            return visits
        visits.append(await stand.trial(proposal, "ours"))


async def measure(stand: Stand, searches: int) -> Measured:
    """Measure both sides on one engine, alternating."""
    for _ in range(WARM_UP_TRIALS):
        await stand.trial(warm_up(stand.limits.min_window_seconds), "warm-up")
    ours = []
    up = await pass_up(stand)
    ours.append(await search(stand))
    down = await pass_down(stand, up)
    top = max(curve([*up, *down]), key=lambda r: r.output_tokens_per_s)
    fresh = await stand.trial(full_trial(top.batch, Purpose.CONFIRM, stand.limits), "reference")
    for _ in range(searches - 1):
        ours.append(await search(stand))
    return Measured(up, down, fresh, ours)


def rate_by(visits: Sequence[Visit], batch: int) -> float:
    """Throughput at a batch by these visits, interpolated in log batch."""
    rates = curve(visits)
    below = max((r for r in rates if r.batch <= batch), key=lambda r: r.batch, default=rates[0])
    above = min((r for r in rates if r.batch >= batch), key=lambda r: r.batch, default=rates[-1])
    if above.batch <= below.batch:
        return below.output_tokens_per_s
    part = math.log(batch / below.batch) / math.log(above.batch / below.batch)
    return (1 - part) * below.output_tokens_per_s + part * above.output_tokens_per_s


def figures(found: Measured) -> dict[str, Any]:
    """The figures that judge the search, and the difference of the reference's passes."""
    reference = [*found.up, *found.down]
    seconds = math.fsum(v.seconds for v in reference)
    whole = read([*reference, found.fresh], TOLERANCE)
    first, second = read(found.up, TOLERANCE), read(found.down, TOLERANCE)
    again = {v.batch: v.output_tokens_per_s for v in found.down}
    differ = sorted(
        abs(v.output_tokens_per_s / again[v.batch] - 1) for v in found.up if v.batch in again
    )
    return {
        "reference": {
            **dataclasses.asdict(whole),
            "seconds": seconds,
            "trials": len(reference),
            "passes": [dataclasses.asdict(first), dataclasses.asdict(second)],
            "passes_differ_median": differ[len(differ) // 2],
            "passes_differ_most": differ[-1],
            "second_pass_inside_first": first.holds(second.batch),
            "knees_of_passes_ratio": max(first.batch, second.batch)
            / min(first.batch, second.batch),
        },
        "ours": [_judged(found, visits, whole, seconds) for visits in found.searches],
    }


def _judged(
    found: Measured, visits: Sequence[Visit], whole: Reading, seconds: float
) -> dict[str, Any]:
    ours = read(visits, TOLERANCE)
    spent = math.fsum(v.seconds for v in visits)
    by_reference = rate_by([*found.up, *found.down], ours.batch)
    return {
        **dataclasses.asdict(ours),
        "seconds": spent,
        "trials": len(visits),
        "time_share": spent / seconds,
        "throughput_share_by_reference": by_reference / whole.best,
        "throughput_share_by_ours": rate_by(visits, ours.batch) / whole.best,
        "enough": by_reference >= (1 - ALLOWED_LOSS) * whole.best,
        "inside": whole.holds(ours.batch),
    }


def report(model: str, found: dict[str, Any]) -> str:
    """The figures in words."""
    ref = found["reference"]
    first, second = ref["passes"]
    lines = [
        f"{model}",
        f"  reference: {_knee(ref)}, X* {ref['best']:.1f} "
        f"tokens/s, {ref['trials']} trials in {ref['seconds']:.0f} s",
        f"    its passes: knees {first['batch']} and {second['batch']} "
        f"(ratio {ref['knees_of_passes_ratio']:.2f}; at most {NEIGHBOUR_RATIO} is the step), "
        f"throughput apart by {ref['passes_differ_median']:.1%} in the median, "
        f"{ref['passes_differ_most']:.1%} at most",
    ]
    for ours in found["ours"]:
        lines.append(
            f"  ours: {_knee(ours)}, "
            f"{ours['trials']} trials in {ours['seconds']:.0f} s: {ours['time_share']:.1%} of "
            f"the reference's time; "
            f"throughput there {ours['throughput_share_by_reference']:.1%} of X* by the "
            f"reference's figures, {ours['throughput_share_by_ours']:.1%} by ours "
            f"({'enough' if ours['enough'] else 'not enough'}); "
            f"{'inside' if ours['inside'] else 'outside'} the reference's interval"
        )
    return "\n".join(lines)


def _knee(reading: dict[str, Any]) -> str:
    name = "still growing at" if reading["grows"] else "knee"
    return f"{name} {reading['batch']} ({reading['low']}..{reading['high']})"


def request_for(
    resolved: ResolvedModel, settings: Settings, given: argparse.Namespace
) -> ProfileRequest:
    """The request that the profiler would get for this model."""
    device = cpu_of(settings)
    if given.cores > len(device.cores):
        raise SystemExit(f"--cores {given.cores}: this host has {len(device.cores)} for engines")
    return ProfileRequest(
        model=resolved,
        device=device,
        cores=device.cores[: given.cores],
        memory_bytes=memory_of(device),
        max_batch=given.max_batch,
        min_window_seconds=given.min_window,
        max_window_seconds=given.max_window,
    )


async def run_model(
    resolved: ResolvedModel, settings: Settings, given: argparse.Namespace
) -> dict[str, Any]:
    """Run both sides on one start of an engine."""
    request = request_for(resolved, settings, given)
    planned = plan_launch(request, f"search-{time.time_ns():x}")
    bench = bench_of(settings, request.device)
    limits = SearchLimits(
        max_batch=planned.max_batch,
        min_window_seconds=given.min_window,
        max_window_seconds=given.max_window,
        prior=prior_of(request, planned),
    )
    async with bench.running(planned.launch, tell) as engine:
        stand = Stand(
            bench=bench,
            engine=engine,
            load=load_of(request, planned.architecture),
            limits=limits,
            half_width_share=HALF_WIDTH_SHARE[request.device.kind],
        )
        found = await measure(stand, given.searches)
    return {
        "model": resolved.spec.name,
        "weights": "dummy" if resolved.dummy_weights else "real",
        "hardware": request.device.hardware,
        "cores": given.cores,
        "workload": resolved.spec.workload.key,
        "max_batch": planned.max_batch,
        "engine_version": engine.report.version,
        "figures": figures(found),
        "visits": dataclasses.asdict(found),
    }


async def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all models, with one engine start for each."""
    settings = settings_of(given)
    # The folder is made before an engine starts: a long measurement must not end without a file.
    given.output.parent.mkdir(parents=True, exist_ok=True)
    models = await models_of(settings, given, [(name, given.weights) for name in given.models])
    results = []
    for resolved in models:
        results.append(await run_model(resolved, settings, given))
        print(report(results[-1]["model"], results[-1]["figures"]), flush=True)
    return results


def main() -> int:
    """Run the command line."""
    parser = options_parser(__doc__ or "", rounds=1, seconds=10.0)
    parser.set_defaults(prompt_tokens=160, output_tokens=16)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--weights", choices=("real", "dummy"), default="real")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--min-window", type=float, default=10.0)
    parser.add_argument("--max-window", type=float, default=60.0)
    parser.add_argument("--searches", type=int, default=2, help="runs of our search")
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    given = parser.parse_args()
    if min(given.cores, given.max_batch, given.searches) < 1 or given.min_window <= 0:
        parser.error("--cores, --max-batch, --searches and --min-window must be above 0")
    if given.output is None:
        given.output = RESULTS / f"search-real-{time.strftime('%Y%m%d-%H%M%S')}.json"
    try:
        results = asyncio.run(run(given))
    except PartitiondError as error:
        raise SystemExit(str(error)) from error
    written = {"command": sys.argv[1:], "models": results}
    given.output.write_text(json.dumps(written, indent=1) + "\n")
    print(f"written to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
