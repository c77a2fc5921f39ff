"""Checks of what a user gave, in the constructors of the types that hold it."""

from partitiond.core.errors import SpecError


def require(condition: bool, message: str, hint: str) -> None:
    """Raise SpecError with this message and hint unless the condition holds."""
    if not condition:
        raise SpecError(message, hint=hint)
