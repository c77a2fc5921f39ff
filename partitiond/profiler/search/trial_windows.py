"""Decides how long the window of a trial may be, and estimates the seconds of the trial."""

import math
from collections.abc import Sequence
from typing import Final

from partitiond.profiler.search.types import NextTrial, Purpose, SearchLimits, Visit

CONFIRM_FACTOR: Final = 2.0
"""Every comparison of the knee is with X*, so its windows are longer than the others. Chosen."""

SCOUT_FACTOR: Final = 2.0
"""A scout's window is at most this many times the shortest one: noise that it cannot resolve is
resolved later, at the few batches where it matters. Chosen."""

RAMP_E2EL: Final = 1.3
"""Ramp of a closed loop in mean end-to-end latencies: one, and the prefill of all. Assumed."""


class Costs:
    """Expected latencies and seconds of trials."""

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits) -> None:
        self._visits = [v for v in visits if not v.died]
        self._limits = limits

    def e2el(self, batch: int) -> float:
        """Return the expected latency: as measured there, else by Little's law from the nearest
        batch.
        """
        here = [v.e2el_seconds for v in self._visits if v.batch == batch]
        if here:
            return here[-1]
        if not self._visits:
            return 0.0
        nearest = min(self._visits, key=lambda v: abs(math.log(v.batch / batch)))
        return nearest.e2el_seconds * batch / nearest.batch

    def least(self, batch: int) -> float:
        """Return seconds of the shortest trial of this batch."""
        e2el = self.e2el(batch)
        return RAMP_E2EL * e2el + max(self._limits.min_window_seconds, 2 * e2el)

    def trial(
        self, batch: int, purpose: Purpose, share: float | None, left: float, trials_left: int
    ) -> NextTrial:
        """Build the trial; its window is an even share of the time left."""
        limits, e2el = self._limits, self.e2el(batch)
        least = limits.min_window_seconds
        if purpose is Purpose.CONFIRM:
            least *= CONFIRM_FACTOR
        most = limits.max_window_seconds
        if share is not None:
            most = min(most, SCOUT_FACTOR * least)
        if math.isfinite(left):
            most = min(most, left / trials_left - RAMP_E2EL * e2el)
        most = max(least, most)
        return NextTrial(
            batch=batch,
            purpose=purpose,
            min_window_seconds=least,
            max_window_seconds=most,
            expected_seconds=RAMP_E2EL * e2el + max(least, 2 * e2el),
            half_width_share=share,
        )
