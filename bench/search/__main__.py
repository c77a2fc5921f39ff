"""Tests the trial search on simulated curves, beside a dense reference.

    python -m bench.search [--curves 500] [--seed 1] [--jobs 2]

The reference measures every batch in steps of at most 1.25x, in two passes in opposite orders, with
the same window rule. Each search gets the same curve with its own noise. X* is the true one. See
docs/decisions/0006.
"""

import dataclasses
import math
import multiprocessing
import random
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from bench.command import options
from bench.search.curves import Curve, draw_curve
from bench.search.engine import SimulatedEngine
from bench.search.reference import Reading, read, run_reference
from partitiond.core.profile.knee import TOLERANCE
from partitiond.profiler import search
from partitiond.profiler.search import Prior, SearchDone, SearchLimits, Visit

MAX_TRIALS: Final = 400
ALLOWED_LOSS: Final = TOLERANCE + 0.03
PRIOR_ERROR: Final = 1.5
"""A usual prior errs by this factor (one standard deviation); a wrong prior by 10."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One search on one curve.

    Attributes:
        time_share: measuring time over the reference's.
        regret: 1 - X(our batch) / X*, on the true curve.
        inside: our batch is inside the reference's interval or within 1.25x of its edge.
    """

    time_share: float
    trials: int
    regret: float
    inside: bool

    @property
    def enough(self) -> bool:
        return self.regret <= ALLOWED_LOSS


@dataclasses.dataclass(frozen=True)
class Row:
    """One curve: the figures of every search, and of the reference itself.

    Attributes:
        reference: the reference's own knee on the true curve.
    """

    searches: dict[str, Figures]
    reference: Figures


def prior_of(curve: Curve, wrong: float) -> Prior:
    """A roofline's corner whose knee lies `wrong` times the true one."""
    knee = max(1.0, curve.true_knee * wrong)
    batches = sorted({round(2 ** (i / 4)) for i in range(37)})
    return tuple((b, min(b, knee)) for b in batches if b <= curve.max_batch)


def run_search(engine: SimulatedEngine, limits: SearchLimits) -> list[Visit]:
    """All trials of one search."""
    visits: list[Visit] = []
    for _ in range(MAX_TRIALS):
        proposal = search.propose(visits, limits, engine.clock_seconds)
        if isinstance(proposal, SearchDone):
            return visits
        visits.append(engine.trial(proposal))
    raise RuntimeError("the search does not end")


def judge(curve: Curve, visits: Sequence[Visit], seconds: float, reference: Reading) -> Figures:
    """Judge the visits by the true curve and by the reference."""
    batch = read(visits, TOLERANCE).batch
    return Figures(
        time_share=math.fsum(v.seconds for v in visits) / seconds,
        trials=len(visits),
        regret=1 - curve.rate(batch) / curve.best,
        inside=reference.holds(batch),
    )


def evaluate(task: tuple[int, int]) -> Row:
    """Run all searches on one curve."""
    seed, index = task
    curve = draw_curve(seed, index)
    limits = SearchLimits(max_batch=curve.max_batch)
    engine = SimulatedEngine(curve, random.Random(f"{seed}/{index}/reference"))
    up, down, fresh = run_reference(engine, limits)
    seconds = math.fsum(v.seconds for v in [*up, *down])
    reference = read([*up, *down, fresh], TOLERANCE)
    draw = random.Random(f"{seed}/{index}/prior")
    usual = prior_of(curve, math.exp(draw.gauss(0, math.log(PRIOR_ERROR))))
    wrong = prior_of(curve, draw.choice((0.1, 10.0)))
    priors = {"ours, usual prior": usual, "ours, no prior": None, "ours, prior 10x wrong": wrong}
    searches = {}
    for name, prior in priors.items():
        engine = SimulatedEngine(curve, random.Random(f"{seed}/{index}/{name}"))
        visits = run_search(engine, dataclasses.replace(limits, prior=prior))
        searches[name] = judge(curve, visits, seconds, reference)
    own = judge(curve, [*up, *down, fresh], seconds + fresh.seconds, reference)
    return Row(searches, own)


def share(of: Iterable[bool]) -> float:
    """Share of true values."""
    given = list(of)
    return sum(given) / len(given)


def quantile(values: Iterable[float], q: float) -> float:
    """The value that a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def line(name: str, found: Sequence[Figures]) -> str:
    """One row of the table."""
    times, regrets = [f.time_share for f in found], [f.regret for f in found]
    return (
        f"{name:<24}{quantile(times, 0.5):>8.1%}{quantile(times, 0.95):>8.1%}"
        f"{sum(f.trials for f in found) / len(found):>8.1f}"
        f"{share(f.enough for f in found):>10.1%}"
        f"{share(f.inside for f in found):>10.1%}"
        f"{quantile(regrets, 0.5):>9.1%}{quantile(regrets, 0.95):>8.1%}"
    )


def table(rows: Sequence[Row]) -> str:
    """The whole report."""
    lines = [
        f"{'':<24}{'time':>8}{'time':>8}{'trials':>8}{'X>=.92X*':>10}"
        f"{'knee in':>10}{'regret':>9}{'regret':>8}",
        f"{'':<24}{'median':>8}{'p95':>8}{'mean':>8}{'':>10}"
        f"{'interval':>10}{'median':>9}{'p95':>8}",
    ]
    names = list(rows[0].searches)
    lines += [line(name, [row.searches[name] for row in rows]) for name in names]
    return "\n".join([*lines, line("the reference itself", [row.reference for row in rows])])


def main() -> int:
    """Run the command line."""
    parser = options(__doc__, curves=500, seed=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    if given.curves < 1 or given.jobs < 1:
        parser.error("--curves and --jobs must be at least 1")
    tasks = [(given.seed, index) for index in range(given.curves)]
    with multiprocessing.Pool(given.jobs) as pool:
        rows = pool.map(evaluate, tasks, chunksize=8)
    print(f"{given.curves} curves, seed {given.seed}; time as a share of the reference's")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
