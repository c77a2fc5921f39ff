"""Converts floats to integers, rounded outwards and exactly: a float is taken as a fraction."""

from fractions import Fraction
from typing import Final

SNAP: Final = 10_000
"""A number within one part in SNAP of a whole number counts as that whole number.

So 10.45 / 1.1 is 9.5, and rates keep their common divisor. This never rounds inwards: sums of whole
numbers that miss a whole limit miss it by 1, and fewer than SNAP such deviations are less than 1.
"""


def up(value: float, scale: int, divisor: float = 1.0) -> int:
    """Return `value / divisor` in 1 / scale, rounded up."""
    over, under = _ratio(value, scale, divisor)
    return -((under - over * SNAP) // (under * SNAP))


def down(value: float, scale: int) -> int:
    """Return `value` in 1 / scale, rounded down."""
    over, under = _ratio(value, scale)
    return (over * SNAP + under) // (under * SNAP)


def _ratio(value: float, scale: int, divisor: float = 1.0) -> tuple[int, int]:
    over, under = value.as_integer_ratio()
    if divisor == 1.0:
        return over * scale, under
    by, per = divisor.as_integer_ratio()
    return over * scale * per, under * by


def at_most(level: float, kappa: float, count: int) -> Fraction:
    """Return the sum of shares at which `count` replicas reach a level."""
    return Fraction(level) / (1 + Fraction(kappa) * max(0, count - 1))
