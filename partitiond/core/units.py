"""Defines units: the only module that turns text into bytes and bytes into text.

Memory is always a whole number of bytes (`Bytes`); a bare float never stands for memory.
"""

import math
import re
from typing import Final, NewType

Bytes = NewType("Bytes", int)
"""A whole number of bytes, never negative."""

ZERO_BYTES: Final = Bytes(0)

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3

_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*([kmgt]?i?b?)", re.IGNORECASE)
_FACTORS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "ki": KIB,
    "kib": KIB,
    "m": 1000**2,
    "mb": 1000**2,
    "mi": MIB,
    "mib": MIB,
    "g": 1000**3,
    "gb": 1000**3,
    "gi": GIB,
    "gib": GIB,
    "t": 1000**4,
    "tb": 1000**4,
    "ti": 1024**4,
    "tib": 1024**4,
}


def parse_bytes(text: str | int) -> Bytes:
    """Read "40GiB", "512 MiB", "80GB" or a whole number of bytes.

    Raises:
        ValueError: the text is no size; the message names the accepted forms.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a size")
    if isinstance(text, int):
        if text < 0:
            raise ValueError(f"a size cannot be negative: {text}")
        return Bytes(text)
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size: write 512MiB, 40GiB, 80GB or a number of bytes")
    return Bytes(math.ceil(float(match.group(1)) * factor))


def format_bytes(count: int) -> str:
    """Write a size in binary units with three significant digits: 1.5 GiB, 512 MiB, 12 B."""
    for factor, unit in ((1024**4, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= factor:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count} B"


def format_duration(seconds: float) -> str:
    """Write a duration by its two largest parts at most: 1 h 05 min, 2 min 30 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_DURATION = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*([smhdw]?)", re.IGNORECASE)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str) -> float:
    """Read "90", "90s", "15m", "1h", "30d" or "2w" as seconds.

    Raises:
        ValueError: the text is no duration; the message names the accepted forms.
    """
    match = _DURATION.fullmatch(text.strip()) if text.isascii() else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90s, 15m, 1h, 30d or 2w")
    return float(match.group(1)) * _SECONDS[match.group(2).lower()]
