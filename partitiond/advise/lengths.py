"""Derives from histograms of lengths what a plan needs: mean, variation, quantiles, longest.

A histogram's sum is exact, and therefore the mean is. The variation of the lengths is only known by
bucket: it is that of the lognormal with this mean under which the counts are most likely (maximum
likelihood of grouped data). If all values lie in one bucket, nothing indicates a variation, and the
lengths count as fixed.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final

from partitiond.advise.readings import ScrapedHistogram
from partitiond.core.model.workload import MAX_TOKENS, MAX_VARIATION, LengthShape, Workload

FIXED_BELOW: Final = 0.05
"""Variation below which lengths count as fixed: footprints change by a block at most. Chosen."""
_SIGMA_STEP: Final = 1e-4
"""Distance at which the search for the best sigma ends. Chosen, not measured."""
_NORMAL: Final = NormalDist()
_Z95: Final = 1.96
"""Standard normal quantile of 95 %, two-sided."""


@dataclasses.dataclass(frozen=True, slots=True)
class LengthFigures:
    """Lengths of one kind, in tokens.

    Attributes:
        count: number of values behind the figures.
        mean: exact mean.
        variation: standard deviation / mean, as far as buckets tell.
        p95: quantile to the bucket, interpolated within it.
        longest: no value was longer; None if the longest value is in the unbounded bucket.
    """

    count: float
    mean: float
    variation: float
    p95: float
    longest: float | None

    @property
    def half_width_share(self) -> float:
        """95 % half-width of the mean divided by the mean, for independent values."""
        return _Z95 * max(self.variation, FIXED_BELOW) / math.sqrt(max(1.0, self.count))


def figures_of(histogram: ScrapedHistogram) -> LengthFigures | None:
    """Return the figures; None without counts, or if they are no lengths (mean below one token)."""
    count = histogram.count
    if count <= 0:
        return None
    mean = histogram.total / count
    if not 1 <= mean <= MAX_TOKENS:
        return None
    filled = [b for b, n in zip(histogram.bounds, histogram.counts, strict=True) if n >= count]
    return LengthFigures(
        count=count,
        mean=mean,
        variation=_variation(histogram, mean),
        p95=quantile(histogram, 0.95),
        longest=filled[0] if filled and math.isfinite(filled[0]) else None,
    )


def mean_only(tokens: float, requests: float) -> LengthFigures | None:
    """Return figures from two counters, if an engine has no histogram of lengths."""
    if requests <= 0 or not 1 <= tokens / requests <= MAX_TOKENS:
        return None
    mean = tokens / requests
    return LengthFigures(requests, mean, 0.0, mean, None)


def quantile(histogram: ScrapedHistogram, share: float) -> float:
    """Return the value below which this share lies, linear within its bucket; NaN if unknown.

    In the last, unbounded bucket the value is the bucket's lower bound, as in PromQL's
    `histogram_quantile`.
    """
    if len(histogram.bounds) < 2:  # a single unbounded bucket tells nothing
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
    """Return the request shape to plan for."""
    means = (round(figures.mean) for figures in (prompt, output))
    prompt_tokens, output_tokens = (min(MAX_TOKENS, max(1, mean)) for mean in means)
    variations = [_planned_variation(figures) for figures in (prompt, output)]
    if not any(variations):
        return Workload(prompt_tokens, output_tokens)
    return Workload(
        prompt_tokens, output_tokens, LengthShape.LOGNORMAL, variations[0], variations[1]
    )


def _planned_variation(figures: LengthFigures) -> float:
    # Two digits are more than buckets tell, and give equal workloads for equal traffic.
    return (
        0.0 if figures.variation < FIXED_BELOW else min(MAX_VARIATION, round(figures.variation, 2))
    )


def _variation(histogram: ScrapedHistogram, mean: float) -> float:
    """Return the variation of the likeliest lognormal with this mean."""
    cells = _cells(histogram)
    if len(cells) == 1 and cells[0][0] < mean <= cells[0][1]:
        return 0.0
    largest = _sigma_of(MAX_VARIATION)
    sigma = _maximum(lambda s: _log_likelihood(cells, mean, s), _sigma_of(FIXED_BELOW / 2), largest)
    return math.sqrt(math.expm1(sigma**2))


def _cells(histogram: ScrapedHistogram) -> list[tuple[float, float, float]]:
    """Return (above, up to, values) of each bucket that holds values."""
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
    """Return the share below a bound of a lognormal with this mean and sigma of its logarithm."""
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
    """Return the maximum point of a unimodal function, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    one, two = high - ratio * (high - low), low + ratio * (high - low)
    while high - low > _SIGMA_STEP:
        if value(one) >= value(two):
            high = two
        else:
            low = one
        one, two = high - ratio * (high - low), low + ratio * (high - low)
    return (low + high) / 2
