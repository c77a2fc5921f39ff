"""Checks the values that a user gave, in the constructors of the types that hold them."""

import math

from partitiond.core.errors import SpecError


def require(condition: bool, message: str, hint: str) -> None:
    """Raise SpecError with this message and hint unless the condition holds."""
    if not condition:
        raise SpecError(message, hint=hint)


def require_positive(value: float, name: str, unit: str) -> None:
    """Raise SpecError unless the value is a positive, finite number."""
    require(
        math.isfinite(value) and value > 0,
        f"{name} must be greater than 0 {unit}, got {value!r}.",
        f"Give {name} as a positive number of {unit}.",
    )
