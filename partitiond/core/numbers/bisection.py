"""Finds the largest number that fits, by bisection."""

from collections.abc import Callable


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits; 0 if not even 1 fits.

    Args:
        fits: must be monotonic, as memory is: if a number does not fit, no larger one does.
        most: at least 0.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
