"""The edge of what fits."""

from collections.abc import Callable


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits; 0 where not even 1 does.

    Args:
        fits: once a number does not fit, no larger one may, as memory that only grows.
        most: at least 0.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
