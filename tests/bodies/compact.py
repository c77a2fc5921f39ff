"""Writes JSON so that it is read in a diff: fields side by side, longer parts below them."""

import json
from typing import Any, Final

WIDTH: Final = 110


def compact(value: Any) -> str:
    """JSON in lines that are not too long."""
    return "\n".join(_lines("", value, WIDTH))


def _lines(key: str, value: Any, width: int) -> list[str]:
    whole = key + json.dumps(value, ensure_ascii=False)
    if len(whole) <= width or not isinstance(value, dict | list):
        return [whole]
    if isinstance(value, dict):
        parts = [(f"{json.dumps(key)}: ", part) for key, part in value.items()]
    else:
        parts = [("", part) for part in value]
    found: list[str] = []
    is_open = False  # whether more fits on the last line
    for i, (name, part) in enumerate(parts):
        lines = _lines(name, part, width - 2)
        lines[-1] += "," if i < len(parts) - 1 else ""
        if is_open and len(lines) == 1 and len(found[-1]) + len(lines[0]) < width - 1:
            found[-1] += f" {lines[0]}"
        else:
            found += lines
        is_open = len(lines) == 1
    first, last = "{}" if isinstance(value, dict) else "[]"
    return [key + first, *(f" {line}" for line in found), last]
