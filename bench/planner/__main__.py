"""Ours against first-fit and best-fit decreasing: `python -m bench.planner [--large]`.

Prints ratios: for "slack" GPUs of the baseline over ours, for "over" our goodput over the
baseline's (both: more is better for us), and how far the bound is. Plans pass `check` before
they count.
"""

import argparse
import statistics
import time

from bench.planner.instances import request
from partitiond.core.plan import Infeasible, Plan
from partitiond.planner.api import solve
from partitiond.planner.bound import make_entries
from partitiond.planner.check import check_plan
from partitiond.planner.greedy import first_fit
from partitiond.planner.instance import PlanRequest, build_instance
from partitiond.planner.packing import Packing

SMALL = (("slack", 12, 8), ("over", 12, 4), ("slack", 100, 64), ("over", 100, 64))
LARGE = (("slack", 300, 128), ("over", 300, 128))


def main() -> None:
    """Run all instances and print one line for each kind and size."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="instances of each kind and size")
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of one solve")
    parser.add_argument("--large", action="store_true", help="300 models on 128 GPUs as well")
    options = parser.parse_args()
    print("medians over seeds; lowest and highest in brackets; more is better for us")
    print(f"{'instance':>16} {'/ first-fit':>22} {'/ best-fit':>22} {'gap':>20} {'seconds':>8}")
    for kind, models, gpus in (*SMALL, *(LARGE if options.large else ())):
        rows = [
            measure(request(kind, models, gpus, seed, options.seconds))
            for seed in range(1, options.seeds + 1)
        ]
        first, best, gap, seconds = (list(column) for column in zip(*rows, strict=True))
        print(
            f"{kind:>6} {models:>4}x{gpus:<4} {_spread(first):>22} {_spread(best):>22} "
            f"{_spread(gap, percent=True):>20} {statistics.median(seconds):>8.2f}",
            flush=True,
        )


def measure(asked: PlanRequest) -> tuple[float, float, float, float]:
    """Our value over first-fit's and best-fit's, the gap to the bound, and the seconds."""
    began = time.perf_counter()
    plan = solve(asked)
    seconds = time.perf_counter() - began
    if isinstance(plan, Infeasible):
        raise SystemExit(f"no plan at all: {plan.reasons[0]}")
    wrong = check_plan(plan, asked.models, asked.interference)
    if wrong:
        raise SystemExit(f"the plan is refused: {wrong[0]}")
    instance = build_instance(asked)
    entries = make_entries(instance)
    first = first_fit(instance, entries, best=False)
    best = first_fit(instance, entries, best=True)
    return _ratio(plan, first), _ratio(plan, best), plan.certificate.gap, seconds


def _ratio(plan: Plan, baseline: Packing) -> float:
    ours = plan.certificate.value
    if plan.certificate.objective.value == "min-devices":
        return float("inf") if baseline.lacking() else baseline.cost() / ours
    return ours / baseline.goodput()


def _spread(values: list[float], *, percent: bool = False) -> str:
    form = "{:.1%}" if percent else "{:.3f}"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


if __name__ == "__main__":
    main()
