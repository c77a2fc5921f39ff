"""Caches the result for the last instance that was passed: one solve asks several times."""

import functools
from collections.abc import Callable
from typing import TypeVar

from partitiond.planner.model.types import Instance

Made = TypeVar("Made")


def of_the_last(make: Callable[[Instance], Made]) -> Callable[[Instance], Made]:
    """Return the function with its last result cached; callers must not modify that result."""
    last: list[tuple[Instance, Made]] = []

    @functools.wraps(make)
    def made(instance: Instance) -> Made:
        for known, value in last[:1]:
            if known is instance:
                return value
        value = make(instance)
        last[:] = [(instance, value)]
        return value

    return made
