"""Frozen dataclasses of the core to JSON and back, validated by pydantic.

There are two readers. What a user wrote is read by `from_json`, which refuses unknown fields: a
misspelt field must not be ignored. What another partitiond wrote, and what outlives the process
that wrote it, is read by `from_stored_json`, which ignores them: a release reads what the next
release has written as long as the fields that it needs are there.
"""

import dataclasses
import functools
import json
import tomllib
import typing
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from partitiond.core.errors import InputError, PartitiondError

T = TypeVar("T")

BODY_VERSION: Final = 1
"""Form of the bodies that outlive a process. It grows when a field that readers need is dropped.
The meaning of a field never changes: a new meaning gets a new name."""
VERSION_FIELD: Final = "body_version"


def _forbid_unknown_fields(kind: Any, seen: set[Any]) -> None:
    """Set pydantic's configuration on a dataclass and all it holds; the core knows no pydantic."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in seen:
        seen.add(kind)
        kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
        for hint in typing.get_type_hints(kind).values():
            _forbid_unknown_fields(hint, seen)
    for argument in typing.get_args(kind):
        _forbid_unknown_fields(argument, seen)


@functools.cache
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    _forbid_unknown_fields(kind, set())
    return TypeAdapter(kind)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return _cached_adapter(kind)


def toml_of(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: with the line and column where it ends to be TOML.
    """
    try:
        text = content.decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        wrong, hint = f"no UTF-8 text ({_place(before)})", "Save it as UTF-8."
    except tomllib.TOMLDecodeError as error:
        # Some messages of tomllib say "at end of document", which names no line.
        wrong = str(error).replace("at end of document", f"{_place(text)}, its end")
        hint = "Correct that line; text values need quotes."
    except RecursionError:
        wrong, hint = "nested too deeply", "Write fewer brackets inside each other."
    raise InputError(f"{wrong}.", hint=hint)


def _place(before: str) -> str:
    """Where a text goes on after this much of it, as tomllib says it."""
    return f"at line {before.count(chr(10)) + 1}, column {len(before.rpartition(chr(10))[2]) + 1}"


def closed(kind: type[T]) -> type[T]:
    """Make pydantic, and so the API, refuse unknown fields of a dataclass; returns it."""
    _forbid_unknown_fields(kind, set())
    return kind


def prepare(kinds: Iterable[type]) -> None:
    """Make ready to read and write these: the first time takes a tenth of a second for a large one.

    May be called in a thread.
    """
    for kind in kinds:
        _adapter(kind)


def to_jsonable(value: object) -> Any:
    """Plain dicts, lists, strings and numbers."""
    return _adapter(type(value)).dump_python(value, mode="json")


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON text with stable key order."""
    return json.dumps(to_jsonable(value), indent=indent, ensure_ascii=False)


def from_jsonable(kind: type[T], data: object) -> T:
    """Build a `kind` from plain data.

    Raises:
        InputError: the data does not fit; the message names each field.
    """
    try:
        built: T = _adapter(kind).validate_python(data)
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def from_json(kind: type[T], text: str | bytes) -> T:
    """Build a `kind` from JSON text. Raises InputError as `from_jsonable` does."""
    try:
        built: T = _adapter(kind).validate_json(text)
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def to_json_bytes(value: object) -> bytes:
    """JSON in UTF-8, without spaces; of a list or tuple, each item as what it is."""
    if isinstance(value, list | tuple):
        return b"[" + b",".join(to_json_bytes(item) for item in value) + b"]"
    return _adapter(type(value)).dump_json(value)


def to_stored_jsonable(value: object) -> dict[str, Any]:
    """Plain data of a body that outlives this process: its version, then its fields."""
    return {VERSION_FIELD: BODY_VERSION, **to_jsonable(value)}


def to_stored_json(value: object, *, indent: int | None = None) -> str:
    """JSON text of a body that outlives this process; `from_stored_json` reads it."""
    return json.dumps(to_stored_jsonable(value), indent=indent, ensure_ascii=False)


def from_stored(kind: type[T], data: object) -> T:
    """Build a `kind` from plain data that some partitiond wrote; unknown fields are ignored.

    Raises:
        InputError: a field that is needed is missing or of another form.
    """
    try:
        built: T = _adapter(kind).validate_python(data, extra="ignore")
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def from_stored_json(kind: type[T], text: str | bytes) -> T:
    """Build a `kind` from JSON text that some partitiond wrote. Raises as `from_stored` does."""
    try:
        built: T = _adapter(kind).validate_json(text, extra="ignore")
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def _explain(kind: type[Any], error: ValidationError) -> InputError:
    cause = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(cause, PartitiondError):
        return InputError(cause.message, hint=cause.hint, facts=cause.facts)
    lines = [
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}"
        for item in error.errors(include_url=False)[:8]
    ]
    return InputError(
        f"not a valid {kind.__name__}: " + "; ".join(lines) + ".",
        hint="Correct the named fields.",
    )
