"""Chooses the first trials: few batches, far apart, from a prior if there is one."""

import math
from typing import Final

from partitiond.core.profile.knee import knee_range
from partitiond.profiler.search.rates import Rate
from partitiond.profiler.search.types import SearchLimits

ANCHOR_RATIO: Final = 4
"""Two doublings: a gap this wide is closed by three further trials, or not at all if the curve is
flat on both sides of it. Chosen, not measured."""

ROUNDING: Final = 1.09
"""Rounding moves a batch by at most this factor, less than half a step between neighbours;
docs/decisions/0006 measured no gain."""


def anchors(limits: SearchLimits) -> tuple[int, ...]:
    """Return batches of the first pass, ascending; the largest batch is always among them.

    Without a prior the batches go down from the largest batch to 1. With a prior they are a step
    below its knee, the knee and all steps up, because a prediction never proves that throughput
    does not grow again further up.
    """
    largest = max(1, limits.max_batch)
    knee = _predicted_knee(limits)
    if knee is None:
        found = {largest}
        while min(found) > 1:
            found.add(max(1, min(found) // ANCHOR_RATIO))
        return tuple(sorted(found))
    knee = roundest(knee, 1, largest)
    found = {roundest(knee / ANCHOR_RATIO, 1, knee), knee, largest}
    batch = knee * ANCHOR_RATIO
    while batch * math.sqrt(ANCHOR_RATIO) <= largest:
        found.add(batch)
        batch *= ANCHOR_RATIO
    return tuple(sorted(found))


def _predicted_knee(limits: SearchLimits) -> int | None:
    points = [
        Rate(batch, rate, 0.0, 1, disagreeing=False)
        for batch, rate in limits.prior or ()
        if 1 <= batch <= limits.max_batch and math.isfinite(rate) and rate > 0
    ]
    if not points:
        return None
    best = max(p.output_tokens_per_s for p in points)
    return knee_range(points, best, limits.tolerance)[0]


def roundest(batch: float, low: int, high: int) -> int:
    """Return the batch near `batch`, within low..high, that the highest power of two divides.

    Engines pad batches to the sizes that they captured graphs or tuned kernels for, multiples of 8
    and powers of two: throughput is best at such a size and drops just beyond it.
    """
    least = max(low, math.ceil(batch / ROUNDING))
    most = min(high, math.floor(batch * ROUNDING))
    if least > most:
        return min(high, max(low, round(batch)))
    return max(range(least, most + 1), key=lambda b: (b & -b, -abs(b - batch)))
