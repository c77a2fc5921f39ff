"""Groups items by key in one pass, instead of one pass for each key."""

import collections
from collections.abc import Callable, Iterable
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Group items by key, in their order."""
    return by_key((key(item), item) for item in items)


def by_key(pairs: Iterable[tuple[K, T]]) -> collections.defaultdict[K, list[T]]:
    """Group values by their keys, in their order; any other key has an empty list."""
    found = collections.defaultdict[K, list[T]](list)
    for key, value in pairs:
        found[key].append(value)
    return found
