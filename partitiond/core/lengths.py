"""Prompt and output lengths as discrete distributions, and the moments that memory and time need.

A workload's lengths are a finite list of equally likely (prompt, output) pairs, or two lists that
are drawn from independently. What is predicted and what is sent are then the same distribution,
and every moment is exact.
"""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

QUANTILES: Final = 64
"""Equally likely lengths that stand for a lognormal: the largest is its 99.2 % quantile."""


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

        A slot is seen in proportion to how long its request stays, which is its output length.
        """
        return self.po / self.o + self.oo / (2 * self.o)

    @property
    def occupancy_variance(self) -> float:
        """s^2 of the same: E[P^2 O + P O^2 + O^3 / 3] / E[O] - m^2."""
        second = (self.ppo + self.poo + self.ooo / 3) / self.o
        return max(0.0, second - self.occupancy_mean**2)


def moments_of_pairs(pairs: Sequence[tuple[int, int]]) -> LengthMoments:
    """Moments of equally likely (prompt, output) pairs."""
    count = len(pairs)

    def mean(prompt_power: int, output_power: int) -> float:
        return math.fsum(p**prompt_power * o**output_power for p, o in pairs) / count

    return LengthMoments(
        p=mean(1, 0), o=mean(0, 1), po=mean(1, 1), oo=mean(0, 2),
        ppo=mean(2, 1), poo=mean(1, 2), ooo=mean(0, 3),
    )  # fmt: skip


def moments_of_independent(prompts: Sequence[int], outputs: Sequence[int]) -> LengthMoments:
    """Moments of a prompt and an output length, each drawn from its own equally likely list."""
    p1, p2 = (_mean_power(prompts, power) for power in (1, 2))
    o1, o2, o3 = (_mean_power(outputs, power) for power in (1, 2, 3))
    return LengthMoments(p=p1, o=o1, po=p1 * o1, oo=o2, ppo=p2 * o1, poo=p1 * o2, ooo=o3)


def _mean_power(values: Sequence[int], power: int) -> float:
    return math.fsum(value**power for value in values) / len(values)


def lognormal_lengths(mean: int, variation: float) -> tuple[int, ...]:
    """Equally likely lengths that stand for a lognormal of this mean, ascending, at least 1 each.

    The midpoints of `QUANTILES` equally likely parts, scaled so that their mean is the wanted one
    (the tail beyond the last part is cut off, as a context length cuts it off).

    Args:
        mean: in tokens.
        variation: standard deviation / mean; 0 gives the mean alone.
    """
    if variation == 0:
        return (mean,)
    sigma = math.sqrt(math.log1p(variation**2))
    normal = NormalDist()
    shape = [math.exp(sigma * normal.inv_cdf((i + 0.5) / QUANTILES)) for i in range(QUANTILES)]
    scale = mean * QUANTILES / math.fsum(shape)
    return tuple(max(1, round(scale * value)) for value in shape)
