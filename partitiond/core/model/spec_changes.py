"""Describes how two specifications of a model differ, in words for the audit. Pure."""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Final

from partitiond.core.model.spec import ModelSpec

_LONGEST: Final = 40
"""Longest value that is shown, in characters."""
_SECRET: Final = frozenset({"engine.extra_args"})
"""Fields that may hold tokens; events are read by more people than models are."""


def changes(old: ModelSpec, new: ModelSpec) -> tuple[str, ...]:
    """Describe each differing field, as "engine.max_model_len 2048 -> 4096", nested ones by path.

    Long or compound values, and those that may be secret, are reported by their name alone.
    """
    return tuple(_changes("", old, new))


def _changes(path: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if _is_record(old) and _is_record(new) and type(old) is type(new):
        for field in dataclasses.fields(old):  # type: ignore[arg-type]  # it is one
            name = f"{path}.{field.name}" if path else field.name
            yield from _changes(name, getattr(old, field.name), getattr(new, field.name))
        return
    before, after = _word(old), _word(new)
    told = path not in _SECRET and before is not None and after is not None
    yield f"{path} {before} -> {after}" if told else path


def _is_record(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _word(value: object) -> str | None:
    """Return a plain value in a few letters; None for any other value."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, int | float | str):
        return None
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text or "none" if len(text) <= _LONGEST else None
