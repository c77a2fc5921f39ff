"""Runs the reference: every batch in steps of at most 1.25x, two passes in opposite orders."""

import dataclasses
from collections.abc import Sequence

from bench.search.engine import SimulatedEngine
from partitiond.core.profile.knee import NEIGHBOUR_RATIO, knee_range, still_grows
from partitiond.profiler.search import (
    NextTrial,
    Purpose,
    Rate,
    SearchLimits,
    Visit,
    best_rate,
    curve,
)


def reference_batches(largest: int) -> tuple[int, ...]:
    """As few batches as the step allows, with the largest and its half (the last doubling).

    A denser reference would take longer and make every search look better in comparison.
    """
    batches = [1]
    while batches[-1] < largest:
        batches.append(min(largest, max(batches[-1] + 1, int(batches[-1] * NEIGHBOUR_RATIO))))
    return tuple(sorted({*batches, max(1, largest // 2)}))


@dataclasses.dataclass(frozen=True)
class Reading:
    """The result of visits, by the definitions.

    Attributes:
        batch: the knee, or the largest batch if throughput still grew.
        low, high: range of `batch` by the intervals. If growth over the last doubling is within
            its interval of the tolerance, both readings are inside the range.
        grows: throughput still grew, so that there is no knee.
    """

    batch: int
    low: int
    high: int
    best: float
    grows: bool

    def holds(self, batch: int) -> bool:
        """Whether `batch` is inside the range, or within 1.25x of its edge, or next to it."""
        low = min(self.low / NEIGHBOUR_RATIO, self.low - 1)
        high = max(self.high * NEIGHBOUR_RATIO, self.high + 1)
        return low <= batch <= high


def read(visits: Sequence[Visit], tolerance: float) -> Reading:
    """Knee and range; X* comes from the fresh window if there is one."""
    rates = curve(visits)
    best = best_rate(visits) or max(r.output_tokens_per_s for r in rates)
    knee, low, high = knee_range(rates, best, tolerance)
    largest = rates[-1].batch
    grows = still_grows(rates, tolerance)
    # The same figures, each moved within its interval so that it contradicts the reading.
    lower, upper = _tilted(rates, -1), _tilted(rates, +1)
    if grows:
        sure = still_grows(lower, tolerance)
        return Reading(largest, largest if sure else low, largest, best, True)
    return Reading(knee, low, largest if still_grows(upper, tolerance) else high, best, False)


def _tilted(rates: Sequence[Rate], sign: int) -> list[Rate]:
    """The rates with the largest batch moved by its half-width, and the others against it."""
    last = rates[-1].batch
    return [
        dataclasses.replace(
            r,
            output_tokens_per_s=max(
                1e-9, r.output_tokens_per_s + (sign if r.batch == last else -sign) * r.half_width
            ),
        )
        for r in rates
    ]


def run_reference(
    engine: SimulatedEngine, limits: SearchLimits
) -> tuple[list[Visit], list[Visit], Visit]:
    """Run both passes, and the fresh window for X* (whose time is not counted)."""
    up: list[Visit] = []
    for batch in reference_batches(limits.max_batch):
        up.append(engine.trial(full_trial(batch, Purpose.UP, limits)))
        if up[-1].kv_limited:
            break
    down = [
        engine.trial(full_trial(v.batch, Purpose.DOWN, limits))
        for v in reversed(up)
        if not v.kv_limited
    ]
    top = max(curve([*up, *down]), key=lambda r: r.output_tokens_per_s)
    fresh = engine.trial(full_trial(top.batch, Purpose.CONFIRM, limits))
    return up, down, fresh


def full_trial(batch: int, purpose: Purpose, limits: SearchLimits) -> NextTrial:
    """A trial whose window closes at the device's default interval."""
    factor = 2 if purpose is Purpose.CONFIRM else 1
    least = factor * limits.min_window_seconds
    return NextTrial(batch, purpose, least, limits.max_window_seconds, least)
