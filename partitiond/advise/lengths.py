"""Derives from histograms of lengths what a plan needs: mean, variation, quantiles, longest.

A histogram's sum is exact, and therefore the mean is. The variation of the lengths is only known by
bucket: it is that of the lognormal with this mean under which the counts are most likely (maximum
likelihood of grouped data). If all values lie in one bucket, nothing indicates a variation, and the
lengths count as fixed.
"""

import dataclasses
import itertools
import math
from statistics import NormalDist
from typing import Final

from partitiond.advise.metrics import ScrapedHistogram
from partitiond.core.model.workload import MAX_TOKENS, MAX_VARIATION, LengthShape, Workload

FIXED_BELOW: Final = 0.05
"""Variation below which lengths count as fixed: footprints change by a block at most. Chosen."""
VARIATIONS: Final = [n / 100 for n in range(round(100 * FIXED_BELOW), round(100 * MAX_VARIATION))]
"""Variations to choose from: two digits are more than buckets tell. Chosen."""
_NORMAL: Final = NormalDist()


@dataclasses.dataclass(frozen=True, slots=True)
class LengthFigures:
    """Lengths of one kind, in tokens.

    Attributes:
        mean: exact mean.
        variation: standard deviation / mean, as far as buckets tell.
        p95: quantile to the bucket, interpolated within it.
        longest: no value was longer; None if the longest value is in the unbounded bucket.
    """

    mean: float
    variation: float
    p95: float
    longest: float | None


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
        mean=mean,
        variation=_variation(histogram, mean),
        p95=quantile(histogram, 0.95) or mean,
        longest=filled[0] if filled and math.isfinite(filled[0]) else None,
    )


def quantile(histogram: ScrapedHistogram, share: float) -> float | None:
    """Return the value below which this share lies, linear within its bucket; None if unknown.

    In the last, unbounded bucket the value is the bucket's lower bound, as in PromQL's
    `histogram_quantile`.
    """
    if len(histogram.bounds) < 2:  # a single unbounded bucket tells nothing
        return None
    rank = share * histogram.count
    below, start = 0.0, 0.0
    for bound, counted in zip(histogram.bounds, histogram.counts, strict=True):
        if counted >= rank and counted > below:
            if math.isinf(bound):
                return start
            return start + (bound - start) * (rank - below) / (counted - below)
        below, start = counted, bound
    return None


def workload_of(prompt: LengthFigures, output: LengthFigures) -> Workload:
    """Return the request shape to plan for."""
    means = (round(figures.mean) for figures in (prompt, output))
    prompt_tokens, output_tokens = (min(MAX_TOKENS, max(1, mean)) for mean in means)
    if not prompt.variation and not output.variation:
        return Workload(prompt_tokens, output_tokens)
    return Workload(
        prompt_tokens, output_tokens, LengthShape.LOGNORMAL, prompt.variation, output.variation
    )


def _variation(histogram: ScrapedHistogram, mean: float) -> float:
    """Return the variation of the likeliest lognormal with this mean; 0 if lengths are fixed."""
    bounds, counts = (0.0, *histogram.bounds), (0.0, *histogram.counts)
    cells = [
        (low, high, after - before)
        for (low, high), (before, after) in zip(
            itertools.pairwise(bounds), itertools.pairwise(counts), strict=True
        )
        if after > before
    ]
    if len(cells) == 1 and cells[0][0] < mean <= cells[0][1]:
        return 0.0

    def fit(variation: float) -> float:
        sigma = math.sqrt(math.log1p(variation**2))

        def below(bound: float) -> float:
            if bound <= 0 or math.isinf(bound):
                return float(bound > 0)
            return _NORMAL.cdf((math.log(bound / mean) + sigma**2 / 2) / sigma)

        return math.fsum(
            n * math.log(max(1e-12, below(high) - below(low))) for low, high, n in cells
        )

    best = max(VARIATIONS, key=fit)
    return best if best > FIXED_BELOW else 0.0
