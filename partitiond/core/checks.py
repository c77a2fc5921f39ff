"""Checks the values that a user gave, in the constructors of the types that hold them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from partitiond.core.errors import SpecError

LARGEST: Final = 1e15
"""Bound of any number from outside: bytes, tokens, shares. The planner's integers and products of
two of them hold it. Chosen."""
LONGEST_SECONDS: Final = 1e9
"""Thirty years: twice as long overflows the timers of threads."""
MAX_REQ_PER_S: Final = 1e6
"""A million requests per second is beyond any single host; a larger number is a mistake."""
LEAST: Final = 1e-9
"""Least rate or weight but 0: one request in thirty years. The planner counts in billionths."""


def require(condition: bool, message: str, hint: str) -> None:
    """Raise SpecError with this message and hint unless the condition holds."""
    if not condition:
        raise SpecError(message, hint=hint)


def require_positive(value: float, name: str, unit: str) -> None:
    """Raise SpecError unless the value is a positive number within bounds."""
    wrong = beyond(name, value) or ("" if value > 0 else f"must be greater than 0 {unit}")
    require(
        not wrong,
        f"{name} {wrong}, got {value!r}.",
        f"Give {name} as a positive number of {unit}.",
    )


def beyond(name: str, value: object) -> str:
    """Say why a number from outside is too large, or too small, for plans and timers; empty if it
    is not, or no number.

    Args:
        name: the field, whose end says what it counts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    rate = name.endswith("req_per_s")
    most = MAX_REQ_PER_S if rate else LONGEST_SECONDS if name.endswith("seconds") else LARGEST
    if not -most <= value <= most:
        return f"must be at most {most:g}"
    small = (rate or name == "weight") and 0 < value < LEAST
    return f"must be 0 or at least {LEAST:g}" if small else ""


def numbers_of(record: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number of a record and its parts, with its place: "points.0.req_per_s"."""
    if isinstance(record, int | float) and not isinstance(record, bool):
        yield place, record
    parts: Mapping[object, object] = {}
    if dataclasses.is_dataclass(record):
        parts = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    elif isinstance(record, tuple):
        parts = dict(enumerate(record))
    for name, part in parts.items():
        yield from numbers_of(part, f"{place}.{name}" if place else str(name))
