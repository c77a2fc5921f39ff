"""Runs the comparison as `python -m bench.fleet`: see the package."""

import asyncio
import statistics
import sys
from collections.abc import Sequence

import bench.fleet
from bench.command import chosen, options
from bench.daemons import end_in_order
from bench.fleet.arms import ARMS
from bench.fleet.cases import Case, Model, cases
from loadgen import OpenLoopResult, Outcome, Workload, open_loop
from loadgen.results.statistics import is_good, percentile

GIB = 1 << 30
START_SECONDS = {"partitiond": 2.4, "swap": 17.5}
"""Time that an engine takes to start, by arm: forked and by hand, as `bench.serving.starts`
measured them on a quiet machine."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen cases and arms and print the results of each case."""
    end_in_order()
    known = cases()
    parser = options(bench.fleet.__doc__)
    parser.add_argument("--cases", default=",".join(known), help="some of " + ", ".join(known))
    parser.add_argument("--arms", default=",".join(ARMS), help="some of " + ", ".join(ARMS))
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    parser.add_argument("--start", type=float, help="seconds of a start in both arms")
    given = parser.parse_args(words)
    known = cases(1 / 3 if given.quick else 1.0)
    arms = chosen(parser, "--arms", given.arms, ARMS)
    for case_name in chosen(parser, "--cases", given.cases, known):
        case = known[case_name]
        print(f"\n{case.name}: {case.about}; {case.seconds:.0f} s", flush=True)
        for arm in arms:
            print("  " + asyncio.run(measure(case, arm, given.start)), flush=True)
    return 0


async def measure(case: Case, arm: str, start_seconds: float | None) -> str:
    """Run one case on one arm; return a row for people."""
    async with (
        ARMS[arm](case, start_seconds or START_SECONDS[arm]) as served,
        served.account.counting(),
    ):
        runs = await asyncio.gather(
            *(_load(case, model, served.targets[model.name]) for model in case.models)
        )
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
    worst, held = min(good, key=good.__getitem__), served.account.held
    return (
        f"{arm:10}  good {count / case.seconds:6.2f}/s {count / max(1, len(ended)):5.0%}  "
        f"TTFT p95 {f'{percentile(ttft, 0.95):.2f} s' if ttft else '-':>8}  "
        f"refused {refused:4} failed {len(errors):4}  "
        f"memory {statistics.fmean(held) / GIB:4.1f} GiB (most {max(held) / GIB:4.1f})  "
        f"starts {served.account.starts:3}  worst {worst} {good[worst]:.0%}  [{served.about}]"
        + (f"\n              failed: {max(set(errors), key=errors.count)}" if errors else "")
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


if __name__ == "__main__":
    sys.exit(main())
