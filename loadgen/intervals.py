"""95 % intervals of what a run measured, or None where there are too few values to tell.

Values of one run are not independent: an engine's slow second touches every request in it. Means
therefore use batch means over consecutive values, and percentiles use order statistics with the
number of values that would be as informative if they were independent (from the batch means of
"is this value below the percentile?", never more than there are).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

Interval = tuple[float, float]

BATCHES: Final = 10
"""Batches for batch means: enough degrees of freedom for a t-quantile near 2, few enough that
each batch spans many engine steps."""
MIN_PER_BATCH: Final = 2
_TAIL: Final = 0.025
_EXACT_UP_TO: Final = 20_000
"""Values up to which the binomial's tail is summed; beyond it the normal tail is as good."""

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom.
_T95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def t95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.96


def half_width(values: Sequence[float]) -> float:
    """95 % half-width of the mean of independent values; infinite for fewer than two."""
    count = len(values)
    if count < 2:
        return math.inf
    return t95(count - 1) * math.sqrt(_variance(values) / count)


def batch_means(values: Sequence[float], batches: int = BATCHES) -> list[float]:
    """Means of consecutive parts of nearly equal size."""
    borders = [len(values) * i // batches for i in range(batches + 1)]
    return [math.fsum(values[low:high]) / (high - low) for low, high in itertools.pairwise(borders)]


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Of the mean of values in the order they were measured; None below 20 values."""
    if len(values) < BATCHES * MIN_PER_BATCH:
        return None
    mean = math.fsum(values) / len(values)
    width = half_width(batch_means(values))
    return mean - width, mean + width


def percentile_interval(
    values: Sequence[float], ordered: Sequence[float], share: float, at: float
) -> Interval | None:
    """Of a percentile; None where the values cannot bound it on both sides.

    Args:
        values: in the order they were measured.
        ordered: the same, sorted.
        share: which percentile, as a share.
        at: its estimate.
    """
    count = len(ordered)
    if count < BATCHES * MIN_PER_BATCH:
        return None
    informative = max(1, math.floor(count / _inflation(values, share, at)))
    ranks = order_statistic_ranks(informative, share)
    if ranks is None:
        return None
    low, high = (rank / informative * count for rank in ranks)
    return ordered[max(0, math.floor(low) - 1)], ordered[min(count, math.ceil(high)) - 1]


def order_statistic_ranks(count: int, share: float) -> tuple[int, int] | None:
    """Ranks l < u (from 1) with P(X_l <= percentile <= X_u) >= 95 %, whatever the distribution.

    The number B of values at or below the percentile is binomial: X_l lies above it when B < l,
    X_u below it when B >= u; each tail holds at most 2.5 % (David and Nagaraja, Order Statistics,
    section 7.1). None where even the smallest or the largest value is not far enough out.
    """
    lower = _largest_below(count, share)
    upper = count + 1 - _largest_below(count, 1 - share)
    return None if lower < 1 or upper > count else (lower, upper)


def _largest_below(count: int, share: float) -> int:
    """Largest l with P(Binomial(count, share) < l) <= 2.5 %; 0 where there is none."""
    if count > _EXACT_UP_TO:
        spread = math.sqrt(count * share * (1 - share))
        return max(0, math.floor(count * share - 1.96 * spread))
    log_odds = math.log(share) - math.log1p(-share)
    log_mass = count * math.log1p(-share)
    below = 0.0
    for successes in range(count + 1):
        below += math.exp(log_mass)
        if below > _TAIL:
            return successes
        log_mass += math.log((count - successes) / (successes + 1)) + log_odds
    return count


def _inflation(values: Sequence[float], share: float, at: float) -> float:
    """How many of these values tell as much as one independent value; at least 1."""
    below = [1.0 if value <= at else 0.0 for value in values]
    independent = share * (1 - share) / (len(values) / BATCHES)
    return max(1.0, _variance(batch_means(below)) / independent)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
