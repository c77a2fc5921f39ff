"""Compares our planner with first-fit, best-fit and plain CP-SAT: `python -m bench.planner`.

The output has medians over the seeds for every size and kind of instance, with the lowest and the
highest beside them. "/ best-fit" and the like are ratios in which more is better for us: GPUs of
the baseline over ours for "slack", our weighted requests/s over the baseline's for "over". The gap
to the bound has two parts: from the plan to the best plan known (`best_known.json`, from runs of an
hour or of the length of `--best-known`), and from that plan to the bound. Every plan must pass
`check`, and every baseline runs in the same process, before or after ours.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from bench.planner.baselines import greedy, plain_cp_sat
from bench.planner.instances import SIZES, TUNING_SEEDS, UNTOUCHED_SEEDS
from bench.planner.shipped import SETS
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Infeasible, Objective
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance

KINDS = ("over", "slack")
SECONDS = {"10x4": 10.0, "100x64": 10.0, "300x128": 60.0, "1000x512": 60.0}
"""Time limits of the goals."""
BEST_KNOWN = Path(__file__).with_name("best_known.json")


@dataclasses.dataclass(frozen=True)
class Row:
    """One instance."""

    set: str
    kind: str
    size: str
    seed: int
    by_goodput: bool
    value: float
    bound: float
    status: str
    method: str
    seconds: float
    first_seconds: float
    first_gap: float | None
    best_known: float
    first_fit: float | None
    best_fit: float | None
    cp_sat: float | None

    @property
    def fewer_is_better(self) -> bool:
        """Whether the value counts GPUs."""
        return not self.by_goodput

    def ratio(self, baseline: float | None) -> float | None:
        """The factor by which ours is better; None if the baseline has no answer."""
        if baseline is None:
            return None
        return baseline / self.value if self.fewer_is_better else self.value / max(baseline, 1e-9)

    @property
    def gap_to_known(self) -> float:
        """Gap from the plan to the best plan known."""
        return abs(self.value - self.best_known) / max(self.best_known, 1e-9)

    @property
    def gap_of_known(self) -> float:
        """Gap from the best plan known to the bound."""
        return abs(self.bound - self.best_known) / max(self.best_known, 1e-9)


def main() -> None:
    """Run the chosen instances."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.planner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [f"{models}x{gpus}" for models, gpus in SIZES]
    parser.add_argument("--set", choices=tuple(SETS), default="shipped", help="of instances")
    parser.add_argument("--sizes", default=",".join(names), help="as 10x4,100x64")
    parser.add_argument("--kinds", default=",".join(KINDS), help="over, slack or both")
    parser.add_argument("--seeds", type=int, default=10, help="instances of each kind and size")
    parser.add_argument("--untouched", action="store_true", help="the seeds nothing was tuned on")
    parser.add_argument("--seconds", type=float, help="time limit instead of the goals'")
    parser.add_argument("--workers", type=int, default=2)
    shares = [Objective.MAX_MIN.value, Objective.MAX_HEADROOM.value]
    parser.add_argument("--objective", choices=shares, help="instead, without baselines")
    parser.add_argument("--cp-sat", type=float, metavar="SECONDS", help="limit of plain CP-SAT")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--json", type=Path, help="write every instance's figures here")
    parser.add_argument(
        "--best-known", type=float, metavar="SECONDS", help="look for better plans so long, keep"
    )
    options = parser.parse_args()
    rows = []
    print(f"{platform.processor() or platform.machine()}, {options.workers} workers")
    for size in options.sizes.split(","):
        for kind in options.kinds.split(","):
            mine = list(_run(options, kind, size))
            rows.extend(mine)
            if mine:
                _print(mine)
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


def _run(options: argparse.Namespace, kind: str, size: str) -> Iterable[Row]:
    seeds = (UNTOUCHED_SEEDS if options.untouched else TUNING_SEEDS)[: options.seeds]
    seconds = options.seconds or SECONDS.get(size, 60.0)
    for seed in seeds:
        if options.best_known is not None:
            row = measure(options, kind, size, seed, options.best_known)
            keep_best(row)
            print(f"{kind} {size} seed {seed}: {row.value:g}, bound {row.bound:.6g}", flush=True)
            continue
        row = measure(options, kind, size, seed, seconds)
        if not (options.no_baselines or options.objective):
            limit = seconds if options.cp_sat is None else options.cp_sat
            row = with_baselines(row, limit, options.workers)
        print(
            f"  {kind} {size} seed {seed}: {row.value:g} bound {row.bound:.6g} {row.status} "
            f"{row.seconds:.1f} s; first {row.first_seconds:.2f} s",
            flush=True,
        )
        yield row


def measure(options: argparse.Namespace, kind: str, size: str, seed: int, seconds: float) -> Row:
    """Our plan for one instance."""
    name, (models, gpus) = options.set, (int(part) for part in size.split("x"))
    asked = SETS[name](kind, models, gpus, seed, seconds)
    objective = asked.objective if options.objective is None else Objective(options.objective)
    asked = dataclasses.replace(asked, workers=options.workers, objective=objective)
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
    by_goodput = not proof.objective.is_cost
    certified = next((p for p in seen if p.value is not None and p.bound is not None), None)
    known = None if options.objective else _known().get(f"{name} {kind} {size} {seed}")
    best = proof.value if known is None else known
    best = max(best, proof.value) if by_goodput else min(best, proof.value)
    return Row(
        set=name,
        kind=kind,
        size=size,
        seed=seed,
        by_goodput=by_goodput,
        value=proof.value,
        bound=proof.bound,
        status=proof.status.value,
        method=proof.method,
        seconds=took,
        first_seconds=took if certified is None else certified.seconds,
        first_gap=None if certified is None else certified.gap,
        best_known=best,
        first_fit=None,
        best_fit=None,
        cp_sat=None,
    )


def with_baselines(row: Row, seconds: float, workers: int) -> Row:
    """The row with the baselines' values for the question that was answered."""
    models, gpus = (int(part) for part in row.size.split("x"))
    asked = SETS[row.set](row.kind, models, gpus, row.seed, seconds)
    if row.by_goodput:
        asked = dataclasses.replace(asked, objective=Objective.MAX_GOODPUT)
    instance = build_instance(asked)
    return dataclasses.replace(
        row,
        first_fit=greedy(instance, best=False).value,
        best_fit=greedy(instance, best=True).value,
        cp_sat=plain_cp_sat(instance, seconds, workers).value if seconds > 0 else None,
    )


def _known() -> dict[str, float]:
    if not BEST_KNOWN.exists():
        return {}
    found: dict[str, float] = json.loads(BEST_KNOWN.read_text())
    return found


def keep_best(row: Row) -> None:
    """Keep the best value known for the row's instance."""
    known, key = _known(), f"{row.set} {row.kind} {row.size} {row.seed}"
    known[key] = row.best_known
    BEST_KNOWN.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def _print(rows: list[Row]) -> None:
    first = rows[0]
    print(f"{first.size} {first.kind}, {len(rows)} seeds: median (lowest-highest)")
    for name, column in (
        ("/ first-fit", [r.ratio(r.first_fit) for r in rows]),
        ("/ best-fit", [r.ratio(r.best_fit) for r in rows]),
        ("/ plain CP-SAT", [r.ratio(r.cp_sat) for r in rows]),
    ):
        there = [value for value in column if value is not None]
        if there:
            missing = f", {len(column) - len(there)} without answer" if None in column else ""
            print(f"  {name:24} {_spread(there)}{missing}")
    print(f"  {'plan to best known':24} {_spread([r.gap_to_known for r in rows], percent=True)}")
    print(f"  {'best known to bound':24} {_spread([r.gap_of_known for r in rows], percent=True)}")
    above = [r.value - r.bound for r in rows if r.fewer_is_better]
    if above:
        print(f"  {'GPUs above the bound':24} {_spread(above)}")
    print(f"  {'proven optimal':24} {sum(r.status == 'optimal' for r in rows)} of {len(rows)}")
    print(f"  {'seconds':24} {_spread([r.seconds for r in rows])}")
    print(f"  {'first certified, s':24} {_spread([r.first_seconds for r in rows])}")
    gaps = [r.first_gap for r in rows if r.first_gap is not None]
    if gaps:
        print(f"  {'its gap':24} {_spread(gaps, percent=True)}")


def _spread(values: list[float], *, percent: bool = False) -> str:
    form = "{:.2%}" if percent else "{:.3f}"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


if __name__ == "__main__":
    main()
