"""Implements the former search: powers of two upwards until two doublings gained nothing, then
downwards, a fresh window at the best, then halvings around the knee, each batch twice.

The former search is kept as a baseline. All its windows close at the device's default interval.
"""

import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.profile.frontier import NEIGHBOUR_RATIO, knee_range, last_doubling_growth
from partitiond.core.profile.points import LimitedBy
from partitiond.profiler.search import (
    NextTrial,
    Purpose,
    SearchDone,
    SearchLimits,
    Visit,
    best_rate,
    curve,
)

MAX_VISITS_PER_BATCH: Final = 4
"""Two passes, a fresh window and one more after a disagreement; a fourth pass decides nothing."""

MAX_CONFIRMED: Final = 2
"""A second best batch may overtake the first after its fresh window; a third would not differ
enough to matter."""

CONFIRM_FACTOR: Final = 2.0
"""Every comparison of the knee is with X*, so its window is longer than the others."""

REFINEMENT_TRIALS: Final = 5
"""One fresh window and two halvings (2x to 1.41x to 1.19x), each visited twice."""

TIME_OVERRUN: Final = 1.25
"""Promised second visits are made even if they end a little after the time limit."""

FIRST_GROWTH: Final = 0.5
"""Assumed gain of the first doubling, before any is measured; most engines gain 60 to 90 %."""

RAMP_E2EL: Final = 1.3
"""Ramp of a closed loop in mean end-to-end latencies: one, and the prefill of all requests."""


def propose(
    visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float
) -> NextTrial | SearchDone:
    """The next trial, or `SearchDone`."""
    return _Search(visits, limits, elapsed_seconds).next()


class _Search:
    """One step of the search. Holds derived figures, changes nothing."""

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits, elapsed: float) -> None:
        self._visits = visits
        self._limits = limits
        self._curve = curve(visits)
        self._batches = sorted({v.batch for v in visits})
        limit = limits.time_limit_seconds
        self._left = math.inf if limit is None else limit - elapsed
        self._overrun_left = math.inf if limit is None else limit * TIME_OVERRUN - elapsed

    def next(self) -> NextTrial | SearchDone:
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
        return SearchDone(self._capped_by(), complete=not skipped)

    # Growing

    def _growing(self) -> int | None:
        """The next batch of the pass upwards, or None if that pass has ended."""
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
        """Whether two doublings in a row gained less than the tolerance."""
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
        """The limit on the batch; it has a meaning only if throughput still grew."""
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
        """Further trials, the most useful first, with the time that each takes to finish."""
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
        """A batch inside the gap below the knee, else above it, if that gap is still wide."""
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
        """Expected latency: the measured one, else by Little's law from the nearest batch below.

        Above all visits, throughput is assumed to grow half as much as over the last doubling:
        the estimate is rather too high than too low.
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


def _middle(low: int, high: int) -> int | None:
    """The geometric middle of a gap that is too wide, or None if it is not."""
    if high - low < 2 or high <= NEIGHBOUR_RATIO * low:
        return None
    return min(high - 1, max(low + 1, round(math.sqrt(low * high))))
