"""Runs the comparison as `python -m bench.fleet`: see the package."""

import asyncio
import dataclasses
import sys
from collections.abc import Sequence

import bench.fleet
from bench.command import chosen, options
from bench.daemons import end_in_order
from bench.fleet.arms import ARMS
from bench.fleet.cases import Case, Model, cases
from bench.proxy.tools import MissingError
from loadgen import OpenLoopResult, Outcome, Workload, open_loop
from loadgen.results.statistics import is_good, percentile

GIB = 1 << 30
START_SECONDS = 15.0
"""Time that an engine takes to start, as measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The results of one arm in one case.

    Attributes:
        good: by model, the share of its requests within the SLO.
        error: the most frequent error of failed requests; empty if none failed.
    """

    case: str
    arm: str
    about: str
    arrivals: int
    goodput_req_per_s: float
    good_share: float
    ttft_p95_seconds: float | None
    refused: int
    failed: int
    mean_gib: float
    peak_gib: float
    starts: int
    good: dict[str, float]
    error: str = ""


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen cases and arms and print the results of each case."""
    end_in_order()
    known = cases()
    parser = options(bench.fleet.__doc__)
    parser.add_argument("--cases", default=",".join(known), help="some of " + ", ".join(known))
    parser.add_argument("--arms", default=",".join(ARMS), help="some of " + ", ".join(ARMS))
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    given = parser.parse_args(words)
    known = cases(1 / 3 if given.quick else 1.0)
    arms = chosen(parser, "--arms", given.arms, ARMS)
    for case_name in chosen(parser, "--cases", given.cases, known):
        case = known[case_name]
        print(f"\n{case.name}: {case.about}; {case.seconds:.0f} s", flush=True)
        for arm in arms:
            try:
                result = asyncio.run(measure(case, arm, START_SECONDS))
            except MissingError as error:
                print(f"  SKIPPED {arm}: {error}", flush=True)
                continue
            print("  " + line_of(result), flush=True)
    return 0


async def measure(case: Case, arm: str, start_seconds: float) -> Result:
    """Run one case on one arm."""
    async with ARMS[arm](case, start_seconds) as served:
        served.count_from_now()
        runs = await asyncio.gather(
            *(_load(case, model, served.targets[model.name]) for model in case.models)
        )
        mean, peak = served.memory()
        starts = served.starts()
    ended = [record for run in runs for record in run.arrivals]
    good = {
        model.name: sum(is_good(r, case.slo) for r in run.arrivals) / len(run.arrivals)
        for model, run in zip(case.models, runs, strict=True)
        if run.arrivals
    }
    count = sum(is_good(record, case.slo) for record in ended)
    ttft = sorted(record.ttft for record in ended if record.ttft is not None)
    refused = sum(record.outcome is Outcome.REFUSED for record in ended)
    errors = [r.error[:90] for r in ended if r.outcome in {Outcome.ERROR, Outcome.TIMEOUT}]
    return Result(
        case.name,
        arm,
        served.about,
        len(ended),
        count / case.seconds,
        count / max(1, len(ended)),
        percentile(ttft, 0.95) if ttft else None,
        refused,
        len(errors),
        mean / GIB,
        peak / GIB,
        starts,
        good,
        max(set(errors), key=errors.count, default=""),
    )


async def _load(case: Case, model: Model, target: str) -> OpenLoopResult:
    workload = Workload(model.name, prompt_tokens=160, output_tokens=16, seed=7)
    return await open_loop(
        target,
        workload,
        arrivals=iter(case.arrivals(model)),
        seconds=case.seconds,
        timeout_seconds=case.timeout_seconds,
    )


def line_of(result: Result) -> str:
    """One row for people."""
    ttft = "-" if result.ttft_p95_seconds is None else f"{result.ttft_p95_seconds:.2f} s"
    worst = min(result.good, key=lambda name: result.good[name])
    return (
        f"{result.arm:10}  good {result.goodput_req_per_s:6.2f}/s {result.good_share:5.0%}  "
        f"TTFT p95 {ttft:>8}  refused {result.refused:4} failed {result.failed:4}  "
        f"memory {result.mean_gib:4.1f} GiB (most {result.peak_gib:4.1f})  "
        f"starts {result.starts:3}  worst {worst} {result.good[worst]:.0%}  [{result.about}]"
        + (f"\n              failed: {result.error}" if result.error else "")
    )


if __name__ == "__main__":
    sys.exit(main())
