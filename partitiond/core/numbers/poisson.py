"""Computes the most requests that Poisson arrivals bring in a window, at a given probability."""

import functools
import math
import statistics
from typing import Final

EXACT_UP_TO: Final = 1e6
"""Mean above which the normal approximation with its first correction replaces sums: it is then off
by less than one request in a million. Chosen for that."""


@functools.lru_cache(maxsize=8192)
def poisson_quantile(mean: float, share: float) -> int:
    """Return the least k with P(N <= k) >= share, for N Poisson with this mean.

    The sum starts where the terms begin to count, with each term in logarithms, so that no mean
    underflows. Means above `EXACT_UP_TO` use Cornish and Fisher (1937): mean + z sqrt(mean) +
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
    # More than 12 standard deviations below the mean, all terms together are less than 1e-30.
    k = max(0, math.floor(mean - 12 * math.sqrt(mean)))
    term = math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    total = term
    # More than 40 standard deviations above the mean, no term is left that a double could add.
    last = math.ceil(mean + 40 * math.sqrt(mean) + 40)
    while total < share and k < last:
        k += 1
        term *= mean / k
        total += term
    return k
