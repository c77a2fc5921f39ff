"""Quantiles of Poisson arrivals: how many requests come at most in a window, so often."""

import functools
import math
import statistics
from typing import Final

EXACT_UP_TO: Final = 1e6
"""Mean from which the normal approximation with its first correction is used instead of sums: it
is then off by less than one request in a million."""


@functools.lru_cache(maxsize=8192)
def poisson_quantile(mean: float, share: float) -> int:
    """The least k with P(N <= k) >= share, for N Poisson with this mean.

    Summed from where the terms begin to count, with each term in logarithms, so that no mean
    underflows. For means above `EXACT_UP_TO` by Cornish and Fisher (1937): mean + z sqrt(mean) +
    (z^2 - 1) / 6, rounded up.

    Args:
        mean: expected number, at least 0.
        share: between 0 and 1, both excluded.
    """
    if mean <= 0:
        return 0
    z = statistics.NormalDist().inv_cdf(share)
    if mean > EXACT_UP_TO:
        return math.ceil(mean + z * math.sqrt(mean) + (z * z - 1) / 6)
    # Below 12 standard deviations under the mean there is less than 1e-30 in all.
    k = max(0, math.floor(mean - 12 * math.sqrt(mean)))
    term = math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    total = term
    # Beyond 40 standard deviations above the mean nothing is left that a double could add.
    last = math.ceil(mean + 40 * math.sqrt(mean) + 40)
    while total < share and k < last:
        k += 1
        term *= mean / k
        total += term
    return k
