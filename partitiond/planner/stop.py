"""Defines how a caller stops a solve."""

from collections.abc import Callable

Stop = Callable[[], bool]
"""Asked now and then; True ends the work with the best result so far."""


def never() -> bool:
    """Never stop: the default `Stop`."""
    return False
