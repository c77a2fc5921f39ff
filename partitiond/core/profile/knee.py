"""Finds the knee of a sweep, and the frontier of its operating points.

Frontier: the points that no other point beats in (footprint down, throughput up, TPOT p95 down).
Knee(e) = min { b : X(b) >= (1 - e) X* }: the smallest batch that reaches the frontier throughput
within the tolerance e. A larger batch costs latency and memory, and gains no tokens.
"""

import math
import operator
from collections.abc import Sequence
from typing import Final, Protocol

from partitiond.core.profile.points import Knee, LimitedBy, OperatingPoint

TOLERANCE: Final = 0.05
"""e of the knee: two careful runs of the same trial differ by about 5 %. Chosen for that."""

NEIGHBOUR_RATIO: Final = 1.25
"""The sweep refines until batches around the knee are at most this far apart. Chosen."""


class RatePoint(Protocol):
    """The fields of a batch that the knee needs; an `OperatingPoint` has them."""

    @property
    def batch(self) -> int:
        """Requests in flight."""
        ...

    @property
    def output_tokens_per_s(self) -> float:
        """X(b)."""
        ...

    @property
    def half_width(self) -> float:
        """95 % half-width of X(b)."""
        ...


def dominates(one: OperatingPoint, other: OperatingPoint) -> bool:
    """Return whether `one` is at least as good in all three respects and better in at least one."""
    costs, others = ((p.footprint_bytes, -p.output_tokens_per_s, p.tpot.p95) for p in (one, other))
    return costs != others and all(map(operator.le, costs, others))


def frontier(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """Return the points that no other point dominates, by batch."""
    kept = [p for p in points if not any(dominates(other, p) for other in points)]
    return tuple(sorted(kept, key=lambda p: p.batch))


def last_doubling_growth(points: Sequence[RatePoint]) -> float:
    """Return the growth of throughput over the last doubling of the batch, as a share.

    Compares the largest batch with the largest one of at most half its size. If that is more than
    a doubling away, the growth is spread evenly over the doublings between. Infinite for a single
    point, which does not show that throughput stopped growing.
    """
    ordered = sorted(points, key=lambda p: p.batch)
    last = ordered[-1]
    before = [p for p in ordered if 2 * p.batch <= last.batch]
    if not before or before[-1].output_tokens_per_s <= 0:
        return math.inf
    doublings = math.log2(last.batch / before[-1].batch)
    ratio = last.output_tokens_per_s / before[-1].output_tokens_per_s
    return float(ratio ** (1 / doublings)) - 1


def still_grows(points: Sequence[RatePoint], tolerance: float = TOLERANCE) -> bool:
    """Return whether throughput still grew by more than the tolerance when the sweep ended.

    On a curve that only rises, the last doubling decides. A curve with steps or a dip may rise
    over its last doubling and yet end below the throughput of a smaller batch. Then the best batch
    is known, more requests in flight would not help, and the knee is reported.
    """
    ordered = sorted(points, key=lambda p: p.batch)
    last = ordered[-1].output_tokens_per_s
    best = max(p.output_tokens_per_s for p in ordered)
    before = [p.output_tokens_per_s for p in ordered if 2 * p.batch <= ordered[-1].batch]
    grew = last_doubling_growth(ordered) > tolerance
    above = all(last > (1 + tolerance) * rate for rate in before)
    return grew and above and last >= (1 - tolerance) * best


def find_knee(
    points: Sequence[OperatingPoint],
    tolerance: float = TOLERANCE,
    capped_by: LimitedBy = LimitedBy.CAP,
    best_output_tokens_per_s: float | None = None,
) -> Knee:
    """Find the knee of a sweep.

    Args:
        points: operating points, one per batch, in any order.
        tolerance: e of the definition.
        capped_by: what ended the sweep, if throughput was still growing.
        best_output_tokens_per_s: X* if it was measured again in a fresh window; None for the
            largest X among the points, which is biased upwards by noise.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("a knee needs at least one operating point")
    usable = sorted((p for p in points if not p.kv_limited), key=lambda p: p.batch)
    limited = len(usable) < len(points)
    if not usable:
        smallest = min(points, key=lambda p: p.batch)
        best = smallest.output_tokens_per_s
        return Knee(None, None, None, tolerance, best, LimitedBy.MEMORY, smallest.batch)
    best = best_output_tokens_per_s or max(p.output_tokens_per_s for p in usable)
    largest = usable[-1].batch
    if still_grows(usable, tolerance):
        reason = LimitedBy.MEMORY if limited else capped_by
        return Knee(None, None, None, tolerance, best, reason, largest)
    knee, low, high = knee_range(usable, best, tolerance)
    return Knee(knee, low, high, tolerance, best, None, largest)


def knee_range(points: Sequence[RatePoint], best: float, tolerance: float) -> tuple[int, int, int]:
    """Return the knee for a given X*, and its range if every X may be off by its half-width.

    If no point reaches the rate (X* was measured in a luckier window than any point), the knee is
    the batch with the largest X, and the upper end of the range is the largest batch.
    """
    ordered = sorted(points, key=lambda p: p.batch)
    top = max(ordered, key=lambda p: p.output_tokens_per_s)

    def first_reaching(rate: float, half_widths: float, otherwise: int) -> int:
        reaching = (
            p.batch for p in ordered if p.output_tokens_per_s + half_widths * p.half_width >= rate
        )
        return next(reaching, otherwise)

    knee = first_reaching((1 - tolerance) * best, 0.0, top.batch)
    low = first_reaching((1 - tolerance) * (best - top.half_width), +1.0, top.batch)
    high = first_reaching((1 - tolerance) * (best + top.half_width), -1.0, ordered[-1].batch)
    return knee, min(low, knee), max(high, knee)
