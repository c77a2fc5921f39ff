"""Computes 95 % intervals of a run's figures; None if there are too few values.

Values of one run are not independent: an engine's slow second affects every request in it. All
intervals therefore rest on batch means: the run is cut into consecutive parts, and the scatter of
the parts gives the uncertainty of their mean. Parts that follow a slow change of the engine still
resemble their neighbours: the correlation left between neighbours is estimated and its effect on
the mean added (that of a first-order autoregressive series, as in Alexopoulos, Steiger et al.,
ASAP3, ACM TOMACS 15, 2005, with the estimate's small-sample bias corrected, Marriott and Pope
1954). docs/profiling-method.md states how often the intervals hold the truth: about as
often as claimed for throughput, TTFT, ITL and E2EL while neighbouring parts are not much alike;
less often for TPOT in windows of a few requests' length: each TPOT averages over several parts.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

Interval = tuple[float, float]

BATCHES: Final = 20
"""Parts for batch means: enough to estimate their scatter and the correlation of neighbours, few
enough that each part spans several engine steps."""
FEWER_BATCHES: Final = 10
"""Number of parts if there are too few values for `BATCHES`."""
MIN_PER_BATCH: Final = 2
_LARGEST_CORRELATION: Final = 0.8
"""Limit for neighbouring parts: twenty parts cannot show more. It triples the half-width."""
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


def ratio_half_width(totals: Sequence[float], sizes: Sequence[float]) -> float:
    """95 % half-width of sum(totals) / sum(sizes), over consecutive parts of one run.

    Parts may differ in size (Cochran, Sampling Techniques, section 6.4, for the scatter of a
    ratio). Infinite for fewer than three parts.

    Args:
        totals: what each part holds: tokens, or seconds of latency.
        sizes: the size of each part: its length, or its number of values.
    """
    count = len(totals)
    if count < 3:
        return math.inf
    size = math.fsum(sizes) / count
    ratio = math.fsum(totals) / (size * count)
    apart = [total - ratio * part for total, part in zip(totals, sizes, strict=True)]
    squares = math.fsum(d * d for d in apart)
    if squares == 0:
        return 0.0
    variance = squares / (count - 1) / count
    products = math.fsum(first * second for first, second in itertools.pairwise(apart))
    memory = products / squares
    memory = min(_LARGEST_CORRELATION, max(0.0, memory + (1 + 3 * memory) / count))
    return t95(count - 1) * math.sqrt(variance * (1 + memory) / (1 - memory)) / size


def batches_of(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Sums and sizes of consecutive parts of nearly equal size."""
    count = len(values)
    parts = BATCHES if count >= BATCHES * MIN_PER_BATCH else FEWER_BATCHES
    borders = [count * i // parts for i in range(parts + 1)]
    sums = [math.fsum(values[low:high]) for low, high in itertools.pairwise(borders)]
    return sums, [high - low for low, high in itertools.pairwise(borders)]


def mean_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of values in the order they became known; None below 20 values."""
    if len(values) < FEWER_BATCHES * MIN_PER_BATCH:
        return None
    mean = math.fsum(values) / len(values)
    width = ratio_half_width(*batches_of(values))
    return mean - width, mean + width


def percentile_interval(
    values: Sequence[float], ordered: Sequence[float], share: float, at: float
) -> Interval | None:
    """95 % interval of a percentile; None if the values cannot bound it on both sides.

    The borders are order statistics. Their ranks follow from the number of independent values that
    would be as informative; the batch means of "is this value at most the percentile?" give this
    number, which is at most the number of values.

    Args:
        values: in the order they became known.
        ordered: the same, sorted.
        share: which percentile, as a share.
        at: its estimate.
    """
    count = len(ordered)
    if count < FEWER_BATCHES * MIN_PER_BATCH:
        return None
    informative = max(1, math.floor(count / _inflation(values, share, at)))
    ranks = order_statistic_ranks(informative, share)
    if ranks is None:
        return None
    low, high = (rank / informative * count for rank in ranks)
    return ordered[max(0, math.floor(low) - 1)], ordered[min(count, math.ceil(high)) - 1]


def order_statistic_ranks(count: int, share: float) -> tuple[int, int] | None:
    """Ranks l < u (from 1) with P(X_l <= percentile <= X_u) >= 95 % for every distribution.

    The number B of values at or below the percentile is binomial: X_l lies above it when B < l,
    X_u below it when B >= u; each tail holds at most 2.5 % (David and Nagaraja, Order Statistics,
    section 7.1). None if even the smallest or the largest value is not far enough out.
    """
    lower = _largest_below(count, share)
    upper = count + 1 - _largest_below(count, 1 - share)
    return None if lower < 1 or upper > count else (lower, upper)


def _largest_below(count: int, share: float) -> int:
    """Largest l with P(Binomial(count, share) < l) <= 2.5 %; 0 if there is none."""
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
    """Number of these values that are as informative as one independent value; at least 1."""
    below = [1.0 if value <= at else 0.0 for value in values]
    found = ratio_half_width(*batches_of(below)) / t95(len(values))
    return max(1.0, found**2 / (share * (1 - share) / len(values)))


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
