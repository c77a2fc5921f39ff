"""Histograms of lengths to what a plan needs: mean, variation, quantiles, the longest seen.

A histogram's sum is exact, so the mean is. How lengths vary around it is only known by bucket:
the variation is that of the lognormal with this mean under which the counts are the most likely
(maximum likelihood of grouped data). Where all values lie in one bucket there is nothing that
speaks for a variation, and the lengths count as fixed.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final

from partitiond.advise.readings import Histogram
from partitiond.core.workload import MAX_TOKENS, MAX_VARIATION, LengthShape, Workload

FIXED_BELOW: Final = 0.05
"""Variation below which lengths count as fixed: it changes no footprint by more than a block."""
_SIGMA_STEP: Final = 1e-4
_NORMAL: Final = NormalDist()
_Z95: Final = 1.96


@dataclasses.dataclass(frozen=True, slots=True)
class LengthFigures:
    """Lengths of one kind, in tokens.

    Attributes:
        count: values behind it.
        mean: exact.
        variation: standard deviation / mean, as far as buckets tell.
        p50, p95: to the bucket, interpolated within it.
        longest: no value was longer; None where the last bucket has no end.
        misfit: largest distance between the shares at the bounds and those of the lognormal.
    """

    count: float
    mean: float
    variation: float
    p50: float
    p95: float
    longest: float | None
    misfit: float

    @property
    def half_width_share(self) -> float:
        """95 % half-width of the mean over the mean, of independent values."""
        return _Z95 * max(self.variation, FIXED_BELOW) / math.sqrt(max(1.0, self.count))


def figures_of(histogram: Histogram) -> LengthFigures | None:
    """None where nothing was counted, or the counts make no lengths (a mean below one token)."""
    count = histogram.count
    if count <= 0:
        return None
    mean = histogram.total / count
    if not 1 <= mean <= MAX_TOKENS:
        return None
    variation, misfit = _variation(histogram, mean)
    filled = [b for b, n in zip(histogram.bounds, histogram.counts, strict=True) if n >= count]
    return LengthFigures(
        count=count,
        mean=mean,
        variation=variation,
        p50=quantile(histogram, 0.5),
        p95=quantile(histogram, 0.95),
        longest=filled[0] if filled and math.isfinite(filled[0]) else None,
        misfit=misfit,
    )


def mean_only(tokens: float, requests: float) -> LengthFigures | None:
    """From two counters, where an engine has no histogram of lengths."""
    if requests <= 0 or not 1 <= tokens / requests <= MAX_TOKENS:
        return None
    mean = tokens / requests
    return LengthFigures(requests, mean, 0.0, mean, mean, None, 0.0)


def quantile(histogram: Histogram, share: float) -> float:
    """Value below which this share lies, linear within its bucket; NaN where nothing tells.

    In the last bucket without an end it is that bucket's lower bound, as in PromQL's
    `histogram_quantile`.
    """
    if len(histogram.bounds) < 2:  # one bucket, without an end: it tells nothing
        return math.nan
    rank = share * histogram.count
    below, start = 0.0, 0.0
    for bound, counted in zip(histogram.bounds, histogram.counts, strict=True):
        if counted >= rank and counted > below:
            if math.isinf(bound):
                return start
            return start + (bound - start) * (rank - below) / (counted - below)
        below, start = counted, bound
    return math.nan


def workload_of(prompt: LengthFigures, output: LengthFigures) -> Workload:
    """The request shape to plan for."""
    prompt_tokens, output_tokens = (_whole(figures.mean) for figures in (prompt, output))
    variations = [_planned_variation(figures) for figures in (prompt, output)]
    if not any(variations):
        return Workload(prompt_tokens, output_tokens)
    return Workload(
        prompt_tokens, output_tokens, LengthShape.LOGNORMAL, variations[0], variations[1]
    )


def _whole(mean: float) -> int:
    return min(MAX_TOKENS, max(1, round(mean)))


def _planned_variation(figures: LengthFigures) -> float:
    # Two digits are more than buckets tell, and make equal traffic equal workloads.
    return (
        0.0 if figures.variation < FIXED_BELOW else min(MAX_VARIATION, round(figures.variation, 2))
    )


def _variation(histogram: Histogram, mean: float) -> tuple[float, float]:
    """Variation of the likeliest lognormal with this mean, and how far off it is at the bounds."""
    cells = _cells(histogram)
    if len(cells) == 1 and cells[0][0] < mean <= cells[0][1]:
        return 0.0, 0.0
    largest = _sigma_of(MAX_VARIATION)
    sigma = _maximum(lambda s: _log_likelihood(cells, mean, s), _sigma_of(FIXED_BELOW / 2), largest)
    misfit = max(
        abs(counted / histogram.count - _share_below(bound, mean, sigma))
        for bound, counted in zip(histogram.bounds, histogram.counts, strict=True)
    )
    return math.sqrt(math.expm1(sigma**2)), misfit


def _cells(histogram: Histogram) -> list[tuple[float, float, float]]:
    """(above, up to, values) of each bucket that holds any."""
    bounds, counts = (0.0, *histogram.bounds), (0.0, *histogram.counts)
    return [
        (low, high, after - before)
        for (low, high), (before, after) in zip(
            itertools.pairwise(bounds), itertools.pairwise(counts), strict=True
        )
        if after > before
    ]


def _sigma_of(variation: float) -> float:
    return math.sqrt(math.log1p(variation**2))


def _share_below(bound: float, mean: float, sigma: float) -> float:
    """Of a lognormal with this mean whose logarithm has this standard deviation."""
    if bound <= 0:
        return 0.0
    if math.isinf(bound):
        return 1.0
    return _NORMAL.cdf((math.log(bound / mean) + sigma**2 / 2) / sigma)


def _log_likelihood(
    cells: Sequence[tuple[float, float, float]], mean: float, sigma: float
) -> float:
    share = functools.partial(_share_below, mean=mean, sigma=sigma)
    return math.fsum(n * math.log(max(1e-12, share(high) - share(low))) for low, high, n in cells)


def _maximum(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one peak is largest (golden section)."""
    ratio = (math.sqrt(5) - 1) / 2
    one, two = high - ratio * (high - low), low + ratio * (high - low)
    while high - low > _SIGMA_STEP:
        if value(one) >= value(two):
            high = two
        else:
            low = one
        one, two = high - ratio * (high - low), low + ratio * (high - low)
    return (low + high) / 2
