"""Reads the files that users name: no more than a bound, also of a device without an end."""

from pathlib import Path
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.units import format_bytes

MOST_BYTES: Final = 16_000_000
"""Ten times a fleet file of 10,000 models."""


def content(
    path: Path, hint: str, error: type[InputError] = InputError, most_bytes: int = MOST_BYTES
) -> bytes:
    """Return what a file holds. A pipe or device tells no size, and may have no end.

    Args:
        hint: what to do where there is more than the bound.
        error: raised then, or where the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most_bytes + 1)
    except OSError as why:
        said = f"{path} cannot be read: {why.strerror or why}."
        raise error(said, hint="Check the path.") from why
    if len(found) > most_bytes:
        raise error(f"{path} is larger than {format_bytes(most_bytes)}.", hint=hint)
    return found
