"""Estimates what a trial costs, and how long its window may be."""

import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.profile.frontier import NEIGHBOUR_RATIO
from partitiond.profiler.search.model import CurveFit
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

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits, fit: CurveFit | None) -> None:
        self._visits = [v for v in visits if not v.died]
        self._limits = limits
        self._fit = fit

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
        factor = batch / nearest.batch
        if self._fit is not None:
            factor *= self._fit.rate(nearest.batch) / self._fit.rate(batch)
        return nearest.e2el_seconds * factor

    def least(self, batch: int) -> float:
        """Return seconds of the shortest trial of this batch."""
        e2el = self.e2el(batch)
        return RAMP_E2EL * e2el + max(self._limits.min_window_seconds, 2 * e2el)

    def dense(self, largest: int) -> float:
        """Return seconds of a sweep over every batch in steps of at most 1.25x, twice.

        Windows are assumed to be as long as those seen at the device's default interval.
        """
        windows = [
            v.seconds - RAMP_E2EL * v.e2el_seconds
            for v in self._visits
            if v.purpose in {Purpose.DOWN, Purpose.AGAIN}
        ]
        window = math.fsum(windows) / len(windows) if windows else 0.0
        total, batch = 0.0, 1
        while batch <= largest:
            total += max(self.least(batch), RAMP_E2EL * self.e2el(batch) + window)
            batch = max(batch + 1, int(batch * NEIGHBOUR_RATIO))
        return 2 * total

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
