"""Represents prompt and output lengths as discrete distributions with exact moments.

A workload's lengths are a finite list of equally likely (prompt, output) pairs, or two lists that
are drawn from independently. Predictions and sent requests thus follow the same distribution, and
every moment that memory and time need is exact.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

QUANTILES: Final = 64
"""Number of equally likely lengths that stand for a lognormal. Chosen, not measured."""
_LARGEST_SIGMA: Final = 50.0
"""With a larger sigma the last value of a list makes up nearly all of its sum. Arithmetic."""


@dataclasses.dataclass(frozen=True, slots=True)
class LengthMoments:
    """Moments of prompt length P and output length O, in powers of tokens.

    Attributes:
        p, o: E[P], E[O].
        po, oo: E[P O], E[O^2].
        ppo, poo, ooo: E[P^2 O], E[P O^2], E[O^3].
    """

    p: float
    o: float
    po: float
    oo: float
    ppo: float
    poo: float
    ooo: float

    @property
    def occupancy_mean(self) -> float:
        """m, the KV tokens of a busy slot: E[P O]/E[O] + E[O^2] / (2 E[O]).

        Requests are weighted by how long they stay in a slot, which is their output length.
        """
        return self.po / self.o + self.oo / (2 * self.o)

    @property
    def occupancy_variance(self) -> float:
        """s^2, the variance of the same: E[P^2 O + P O^2 + O^3 / 3] / E[O] - m^2."""
        second = (self.ppo + self.poo + self.ooo / 3) / self.o
        return max(0.0, second - self.occupancy_mean**2)


def moments_of_pairs(pairs: Sequence[tuple[int, int]]) -> LengthMoments:
    """Return moments of equally likely (prompt, output) pairs."""
    count = len(pairs)

    def mean(prompt_power: int, output_power: int) -> float:
        return math.fsum(p**prompt_power * o**output_power for p, o in pairs) / count

    return LengthMoments(
        p=mean(1, 0), o=mean(0, 1), po=mean(1, 1), oo=mean(0, 2),
        ppo=mean(2, 1), poo=mean(1, 2), ooo=mean(0, 3),
    )  # fmt: skip


def moments_of_independent(prompts: Sequence[int], outputs: Sequence[int]) -> LengthMoments:
    """Return moments of a prompt and an output length, each drawn from its own equally likely
    list.
    """
    p1, p2 = (_mean_power(prompts, power) for power in (1, 2))
    o1, o2, o3 = (_mean_power(outputs, power) for power in (1, 2, 3))
    return LengthMoments(p=p1, o=o1, po=p1 * o1, oo=o2, ppo=p2 * o1, poo=p1 * o2, ooo=o3)


def _mean_power(values: Sequence[int], power: int) -> float:
    return math.fsum(value**power for value in values) / len(values)


def lognormal_lengths(mean: int, variation: float, count: int = QUANTILES) -> tuple[int, ...]:
    """Return equally likely lengths that stand for a lognormal of this mean, ascending, at least 1
    each.

    The list itself has the mean and the variation, up to rounding to whole tokens, so predictions
    and sent requests follow one distribution. The variation of `count` values is below
    sqrt(count - 1) (all but one near zero), 7.9 for 64; beyond that the list has the
    largest it can have. A mean of a few tokens also limits it, as no value is below 1. The load
    generator makes its lists in the same way (`loadgen.load.lengths.lognormal_list`).

    Args:
        mean: in tokens.
        variation: standard deviation / mean; 0 gives the mean alone.
        count: length of the list.
    """
    if variation == 0:
        return (mean,)
    return tuple(round(value) for value in _scaled(_shape(variation, count), mean))


@functools.lru_cache(maxsize=64)
def _shape(variation: float, count: int) -> tuple[float, ...]:
    """Return the midpoints of `count` equally likely parts of a lognormal of this variation, mean
    1.

    A list that ends at the midpoint of its last part varies less than the distribution it stands
    for, so sigma is chosen such that the list has the wanted variation.
    """
    normal = NormalDist()
    scores = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    low, high = 0.0, _LARGEST_SIGMA
    while high - low > 1e-9:
        sigma = (low + high) / 2
        if _spread([math.exp(sigma * score) for score in scores]) < variation:
            low = sigma
        else:
            high = sigma
    shape = [math.exp(high * score) for score in scores]
    mean = math.fsum(shape) / count
    return tuple(value / mean for value in shape)


def _scaled(shape: Sequence[float], mean: float) -> list[float]:
    """Return values of this shape, none below 1, with this mean."""
    low, high = 0.0, mean
    if mean * shape[0] < 1:
        # The tokens that lift values to 1 are taken from the other values.
        while high - low > 1e-9 * mean:
            scale = (low + high) / 2
            if math.fsum(max(1.0, scale * value) for value in shape) < mean * len(shape):
                low = scale
            else:
                high = scale
    return [max(1.0, high * value) for value in shape]


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation over mean."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value / mean - 1) ** 2 for value in values) / len(values))
