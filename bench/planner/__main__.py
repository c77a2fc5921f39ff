"""Compares our planner with first-fit: `python -m bench.planner`.

The output has medians over the seeds for every size and kind of instance, with the lowest and the
highest beside them. "/ first-fit" is a ratio in which more is better for us: GPUs of the baseline
over ours for "slack", our weighted requests/s over the baseline's for "over". Every plan must pass
`check`, and the baseline runs in the same process.
"""

import argparse
import dataclasses
import gc
import platform
import time
from collections.abc import Iterable, Sequence

from bench.command import options
from bench.paired import spread
from bench.planner.baselines import first_fit
from bench.planner.shipped import request
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Infeasible, Objective
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance

KINDS = ("over", "slack")
SECONDS = {"10x4": 10.0, "100x64": 10.0, "300x128": 60.0, "1000x512": 60.0}
"""Sizes (models and GPUs), with the time limits of the goals."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One instance."""

    kind: str
    size: str
    seed: int
    by_goodput: bool
    value: float
    bound: float
    status: str
    seconds: float
    first_seconds: float
    first_gap: float | None
    first_fit: float | None = None

    @property
    def fewer_is_better(self) -> bool:
        """Whether the value counts GPUs."""
        return not self.by_goodput

    @property
    def ratio(self) -> float | None:
        """The factor by which ours is better; None if the baseline has no answer."""
        other = self.first_fit
        if other is None:
            return None
        return other / self.value if self.fewer_is_better else self.value / max(other, 1e-9)

    @property
    def gap(self) -> float:
        """Gap from the plan to the bound."""
        return abs(self.bound - self.value) / max(self.value, 1e-9)


def main() -> None:
    """Run the chosen instances."""
    parser = options(__doc__)
    parser.add_argument("--sizes", default=",".join(SECONDS), help="as 10x4,100x64")
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help="over, slack, survive (which first-fit does not plan)",
    )
    parser.add_argument("--seeds", type=int, default=10, help="instances of each kind and size")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=float, help="time limit instead of the goals'")
    parser.add_argument(
        "--objective", choices=[Objective.MAX_MIN.value], help="instead, without a baseline"
    )
    parser.add_argument("--no-baseline", action="store_true")
    given = parser.parse_args()
    gc.set_threshold(50_000, 20, 100)  # as in the planner's process
    print(platform.processor() or platform.machine())
    for size in given.sizes.split(","):
        for kind in given.kinds.split(","):
            _print(list(_run(given, kind, size)))


def _run(given: argparse.Namespace, kind: str, size: str) -> Iterable[Row]:
    seconds = given.seconds or SECONDS.get(size, 60.0)
    for seed in range(given.first, given.first + given.seeds):
        row = measure(given, kind, size, seed, seconds)
        if not (given.no_baseline or given.objective):
            row = with_baseline(row)
        print(
            f"  {kind} {size} seed {seed}: {row.value:g} bound {row.bound:.6g} {row.status} "
            f"{row.seconds:.1f} s; first {row.first_seconds:.2f} s",
            flush=True,
        )
        yield row


def measure(given: argparse.Namespace, kind: str, size: str, seed: int, seconds: float) -> Row:
    """Our plan for one instance."""
    models, gpus = (int(part) for part in size.split("x"))
    asked = request(kind, models, gpus, seed, seconds)
    objective = asked.objective if given.objective is None else Objective(given.objective)
    asked = dataclasses.replace(asked, objective=objective)
    seen: list[PlanProgress] = []
    began = time.perf_counter()
    plan = solve(asked, seen.append)
    took = time.perf_counter() - began
    if isinstance(plan, Infeasible):
        raise SystemExit(f"no plan at all: {plan.reasons[0]}")
    wrong = check_plan(plan, asked.models, asked.interference)
    if wrong:
        raise SystemExit(f"the plan is refused: {wrong[0]}")
    proof = plan.certificate
    # Some of the smallest instances that are meant to fit do not: for these, goodput counts.
    certified = next((p for p in seen if p.value is not None and p.bound is not None), None)
    return Row(
        kind=kind,
        size=size,
        seed=seed,
        by_goodput=not proof.objective.is_cost,
        value=proof.value,
        bound=proof.bound,
        status=proof.status.value,
        seconds=took,
        first_seconds=took if certified is None else certified.seconds,
        first_gap=None if certified is None else certified.gap,
    )


def with_baseline(row: Row) -> Row:
    """The row with the baseline's value for the question that was answered."""
    models, gpus = (int(part) for part in row.size.split("x"))
    asked = request(row.kind, models, gpus, row.seed, seconds=0.0)
    if row.by_goodput:
        asked = dataclasses.replace(asked, objective=Objective.MAX_GOODPUT)
    return dataclasses.replace(row, first_fit=first_fit(build_instance(asked)))


def _print(rows: Sequence[Row]) -> None:
    first = rows[0]
    print(f"{first.size} {first.kind}, {len(rows)} seeds: median (lowest..highest)")
    there = [ratio for row in rows if (ratio := row.ratio) is not None]
    if there:
        missing = f", {len(rows) - len(there)} without answer" if len(there) < len(rows) else ""
        print(f"  {'/ first-fit':24} {spread(there)}{missing}")
    print(f"  {'plan to bound':24} {spread([r.gap for r in rows], '.2%')}")
    above = [r.value - r.bound for r in rows if r.fewer_is_better]
    if above:
        print(f"  {'GPUs above the bound':24} {spread(above)}")
    print(f"  {'proven optimal':24} {sum(r.status == 'optimal' for r in rows)} of {len(rows)}")
    print(f"  {'seconds':24} {spread([r.seconds for r in rows])}")
    print(f"  {'first certified, s':24} {spread([r.first_seconds for r in rows])}")
    gaps = [r.first_gap for r in rows if r.first_gap is not None]
    if gaps:
        print(f"  {'its gap':24} {spread(gaps, '.2%')}")


if __name__ == "__main__":
    main()
