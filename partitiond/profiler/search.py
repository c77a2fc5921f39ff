"""Which trial comes next: a pure function of the visits so far, the limits and the time spent.

The search goes through these steps, and does not remember which it is in: the visits tell.

1. Up: batches 1, 2, 4 ... until throughput has stopped growing (two doublings in a row gained
   less than the tolerance), the KV cache was too small, or the largest batch is reached. Should
   second visits show that it still grew, this goes on.
2. Down: each of them again, from the largest, so that a drift of the machine over the sweep does
   not look like an effect of the batch.
3. Confirm: the best batch once more, in a window twice as long. The largest of several noisy
   figures is biased upwards, so X* is what this fresh window says.
4. Refine: halve (geometrically) the gap below the knee, then the one above it, until neighbours
   are at most 1.25x apart. Then these batches a second time, too.
5. Again: batches whose two visits disagree beyond their intervals, nearest to the knee first.

A time limit changes how far it gets, not the order: growing is worth more than refining, because
a knee that was not reached cannot be refined. A new batch is begun only if its second visit
fits, too. Windows are as long as an even share of the time left allows.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.frontier import (
    NEIGHBOUR_RATIO,
    TOLERANCE,
    knee_range,
    last_doubling_growth,
)
from partitiond.core.profile import LimitedBy

MAX_VISITS_PER_BATCH: Final = 4
"""Two passes, a fresh window and one for a disagreement; a fourth opinion settles nothing more."""

MAX_CONFIRMED: Final = 2
"""A second best batch may overtake the first once that was measured afresh; a third will not
differ by anything that matters."""

CONFIRM_FACTOR: Final = 2.0
"""Every comparison of the knee is with X*, so its window is longer than the others."""

REFINEMENT_TRIALS: Final = 5
"""One fresh window and two halvings (2x to 1.41x to 1.19x), each visited twice."""

TIME_OVERRUN: Final = 1.25
"""Second visits that were promised are made even a little beyond the time limit."""

FIRST_GROWTH: Final = 0.5
"""Taken for the first doubling, of which nothing is known yet; most engines gain 60 to 90 %."""

RAMP_E2EL: Final = 1.3
"""Ramp of a closed loop in mean end-to-end latencies: one, and the prefill of all at once."""


class Purpose(enum.StrEnum):
    """Why a trial is made."""

    UP = "up"
    DOWN = "down"
    CONFIRM = "confirm"
    REFINE = "refine"
    AGAIN = "again"


@dataclasses.dataclass(frozen=True, slots=True)
class SearchLimits:
    """What bounds the search.

    Attributes:
        max_batch: largest batch the started engine takes.
        time_limit_seconds: for all trials; None for no limit.
        min_window_seconds, max_window_seconds: of one window.
        tolerance: e of the knee.
    """

    max_batch: int
    time_limit_seconds: float | None = None
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0
    tolerance: float = TOLERANCE


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """One finished trial.

    Attributes:
        seconds: whole wall time, ramp included.
        e2el_seconds: mean end-to-end latency.
    """

    batch: int
    purpose: Purpose
    output_tokens_per_s: float
    half_width: float
    seconds: float
    e2el_seconds: float
    kv_limited: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class NextTrial:
    """The trial to make now.

    Attributes:
        expected_seconds: its wall time, for progress.
    """

    batch: int
    purpose: Purpose
    min_window_seconds: float
    max_window_seconds: float
    expected_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to measure.

    Attributes:
        capped_by: what ended the growing of the batch, for a knee that was not reached.
        complete: every step was made; False where the time limit left some out.
    """

    capped_by: LimitedBy
    complete: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """All visits of one batch taken together."""

    batch: int
    output_tokens_per_s: float
    half_width: float
    visits: int
    disagreeing: bool


def combine(rates: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Mean over windows and its half-width.

    The half-width is that of a mean of independent windows, or half the range of the windows
    where that is larger: within a window batch means cannot see what changed between windows.
    """
    count = len(rates)
    mean = math.fsum(rates) / count
    finite = [width if math.isfinite(width) else mean for width in half_widths]
    within = math.sqrt(math.fsum(width**2 for width in finite)) / count
    return mean, max(within, (max(rates) - min(rates)) / 2)


def curve(visits: Sequence[Visit]) -> tuple[Rate, ...]:
    """Rates by batch, those that the KV cache limited left out."""
    limited = {v.batch for v in visits if v.kv_limited}
    return tuple(
        _rate(batch, [v for v in visits if v.batch == batch])
        for batch in sorted({v.batch for v in visits} - limited)
    )


def _rate(batch: int, visits: Sequence[Visit]) -> Rate:
    rates = [v.output_tokens_per_s for v in visits]
    widths = [v.half_width for v in visits]
    mean, width = combine(rates, widths)
    apart = max(rates) - min(rates)
    return Rate(batch, mean, width, len(visits), len(visits) == 2 and apart > sum(widths))


def best_rate(visits: Sequence[Visit]) -> float | None:
    """X*: the largest throughput seen in a fresh window; None where there was none."""
    fresh: dict[int, list[float]] = {}
    for visit in visits:
        if visit.purpose is Purpose.CONFIRM and not visit.kv_limited:
            fresh.setdefault(visit.batch, []).append(visit.output_tokens_per_s)
    return max((math.fsum(rates) / len(rates) for rates in fresh.values()), default=None)


def propose(
    visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float
) -> NextTrial | Done:
    """The next trial, or `Done`."""
    return _Search(visits, limits, elapsed_seconds).next()


def seconds_left(visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float) -> float:
    """Estimate of the time the rest of the search takes."""
    return _Search(visits, limits, elapsed_seconds).seconds_left()


class _Search:
    """One look at the state. Holds derived figures, changes nothing."""

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits, elapsed: float) -> None:
        self._visits = visits
        self._limits = limits
        self._curve = curve(visits)
        self._batches = sorted({v.batch for v in visits})
        limit = limits.time_limit_seconds
        self._left = math.inf if limit is None else limit - elapsed
        self._overrun_left = math.inf if limit is None else limit * TIME_OVERRUN - elapsed

    def next(self) -> NextTrial | Done:
        growing = self._growing()
        if growing is not None:
            return self._trial(growing, Purpose.UP)
        second = self._second_visit(Purpose.UP)
        if second is not None:
            return self._trial(second, Purpose.DOWN)
        skipped = False
        for batch, purpose, cost in self._optional():
            if cost <= self._left:
                return self._trial(batch, purpose)
            skipped = True
        second = self._second_visit(Purpose.REFINE)
        if second is not None:
            return self._trial(second, Purpose.DOWN)
        return Done(self._capped_by(), complete=not skipped)

    # Growing

    def _growing(self) -> int | None:
        """The next batch of the pass upwards, or None when that pass is over."""
        if not self._visits:
            return 1
        batch = self._next_doubling()
        if batch is None or self._flat():
            return None
        return batch if self._affordable_growth(batch) else None

    def _next_doubling(self) -> int | None:
        if any(v.kv_limited for v in self._visits):
            return None
        largest = max(v.batch for v in self._visits)
        batch = min(2 * largest, self._limits.max_batch)
        return batch if batch > largest else None

    def _flat(self) -> bool:
        """Two doublings in a row gained less than the tolerance."""
        doublings = {v.batch for v in self._visits if v.purpose is Purpose.UP}
        last = [rate for rate in self._curve if rate.batch in doublings][-3:]
        return len(last) == 3 and all(
            last[i + 1].output_tokens_per_s
            < (1 + self._limits.tolerance) * last[i].output_tokens_per_s
            for i in range(2)
        )

    def _down_began(self) -> bool:
        return any(v.purpose is not Purpose.UP for v in self._visits)

    def _affordable_growth(self, batch: int) -> bool:
        """Whether this batch twice, and all others a second time, fit in the time left."""
        promised = math.fsum(self._least_cost(b) for b in self._batches)
        return 2 * self._least_cost(batch) + promised <= self._left

    def _capped_by(self) -> LimitedBy:
        """Why the batch grew no further; means something only where throughput still grew."""
        if any(v.kv_limited for v in self._visits):
            return LimitedBy.MEMORY
        if self._flat() or max(self._batches) >= self._limits.max_batch:
            return LimitedBy.CAP
        return LimitedBy.TIME

    # Second visits, fresh windows, refinement

    def _second_visit(self, first: Purpose) -> int | None:
        """The largest batch first visited for this purpose and not visited since."""
        if self._overrun_left <= 0:
            return None
        once = [
            v.batch
            for v in self._visits
            if v.purpose is first and not v.kv_limited and self._count(v.batch) == 1
        ]
        return max(once, default=None)

    def _optional(self) -> list[tuple[int, Purpose, float]]:
        """What else to measure, most useful first, with the time each takes to finish."""
        if not self._curve:
            return []
        owed = math.fsum(self._least_cost(b) for b in self._batches if self._count(b) == 1)
        wanted = [
            (b, Purpose.CONFIRM, owed + CONFIRM_FACTOR * self._least_cost(b))
            for b in self._unconfirmed()
        ]
        middle = self._refinement()
        if middle is not None:
            wanted.append((middle, Purpose.REFINE, owed + 2 * self._least_cost(middle)))
        if owed == 0:
            wanted += [(b, Purpose.AGAIN, self._least_cost(b)) for b in self._disagreeing()]
        return wanted

    def _unconfirmed(self) -> list[int]:
        confirmed = {v.batch for v in self._visits if v.purpose is Purpose.CONFIRM}
        top = max(self._curve, key=lambda r: r.output_tokens_per_s).batch
        allowed = len(confirmed) < MAX_CONFIRMED and self._count(top) < MAX_VISITS_PER_BATCH
        return [top] if top not in confirmed and allowed else []

    def _knee(self) -> int | None:
        if last_doubling_growth(self._curve) > self._limits.tolerance:
            return None
        top = max(r.output_tokens_per_s for r in self._curve)
        return knee_range(self._curve, best_rate(self._visits) or top, self._limits.tolerance)[0]

    def _refinement(self) -> int | None:
        """A batch inside the gap below the knee, else above it, where that is still wide."""
        knee = self._knee()
        if knee is None:
            return None
        batches = [r.batch for r in self._curve]
        at = batches.index(knee)
        gaps = [(batches[at - 1], knee)] if at > 0 else []
        gaps += [(knee, batches[at + 1])] if at + 1 < len(batches) else []
        return next((m for low, high in gaps if (m := _middle(low, high)) is not None), None)

    def _disagreeing(self) -> list[int]:
        knee = self._knee() or self._curve[-1].batch
        apart = [r.batch for r in self._curve if r.disagreeing]
        return sorted(apart, key=lambda b: abs(math.log(b / knee)))

    # Costs and windows

    def _count(self, batch: int) -> int:
        return sum(v.batch == batch for v in self._visits)

    def _e2el(self, batch: int) -> float:
        """Expected latency: as seen there, else by Little's law from the nearest batch below.

        Above all visits throughput is taken to grow half as much as over the last doubling:
        rather too dear than too cheap.
        """
        here = [v.e2el_seconds for v in self._visits if v.batch == batch]
        if here:
            return here[-1]
        below = [v for v in self._visits if v.batch <= batch]
        if not below:
            return 0.0
        nearest = max(below, key=lambda v: v.batch)
        growth = last_doubling_growth(self._curve) if len(self._curve) > 1 else FIRST_GROWTH
        factor = batch / nearest.batch / (1 + max(0.0, growth) / 2)
        return nearest.e2el_seconds * max(1.0, factor)

    def _least_cost(self, batch: int) -> float:
        e2el = self._e2el(batch)
        return RAMP_E2EL * e2el + max(self._limits.min_window_seconds, 2 * e2el)

    def _trials_left(self) -> int:
        ups = [v.batch for v in self._visits if v.purpose is Purpose.UP]
        doublings = len(ups)
        if not self._down_began():
            further = self._limits.max_batch / max(ups, default=0.5)
            doublings += max(0, math.ceil(math.log2(further))) if not self._flat() else 0
        return max(1, 2 * doublings + REFINEMENT_TRIALS - len(self._visits))

    def _max_window(self, batch: int) -> float:
        """An even share of the time left, between the least and the largest window."""
        limits = self._limits
        if math.isinf(self._left):
            return limits.max_window_seconds
        share = self._left / self._trials_left() - RAMP_E2EL * self._e2el(batch)
        return max(limits.min_window_seconds, min(limits.max_window_seconds, share))

    def _trial(self, batch: int, purpose: Purpose) -> NextTrial:
        factor = CONFIRM_FACTOR if purpose is Purpose.CONFIRM else 1.0
        least, window = factor * self._limits.min_window_seconds, self._max_window(batch)
        e2el = self._e2el(batch)
        return NextTrial(
            batch=batch,
            purpose=purpose,
            min_window_seconds=least,
            max_window_seconds=max(least, window),
            expected_seconds=RAMP_E2EL * e2el + max(least, window, 2 * e2el),
        )

    def seconds_left(self) -> float:
        mean = math.fsum(v.seconds for v in self._visits) / max(1, len(self._visits))
        each = mean or self._limits.min_window_seconds
        return max(0.0, min(self._left, self._trials_left() * each))


def _middle(low: int, high: int) -> int | None:
    """The geometric middle of a gap that is too wide, or None."""
    if high - low < 2 or high <= NEIGHBOUR_RATIO * low:
        return None
    return min(high - 1, max(low + 1, round(math.sqrt(low * high))))
