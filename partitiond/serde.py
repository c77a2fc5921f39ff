"""Converts frozen dataclasses of the core to JSON and back, validated by pydantic.

There are two readers. `from_json` reads text from users and refuses unknown fields, because a
misspelt field must not be ignored. `from_stored_json` reads text from another partitiond, and text
that outlives the process that wrote it, and ignores unknown fields: a release can read the text of
the next release as long as the fields that the older release needs are there.
"""

import dataclasses
import functools
import json
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from partitiond.core.checks import beyond
from partitiond.core.errors import InputError, PartitiondError
from partitiond.platform.process_identity import raise_if_out_of_files

T = TypeVar("T")

BODY_VERSION: Final = 1
"""Version of bodies that outlive a process; it grows when a field that readers need is dropped.
The meaning of a field never changes: a new meaning gets a new name."""
VERSION_FIELD: Final = "body_version"


def _forbid_unknown_fields(kind: Any, seen: set[Any]) -> None:
    """Configure pydantic on a dataclass and all its parts; the core does not know pydantic."""
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


class Table(BaseModel):
    """A table or body as people write it: frozen, without unknown keys, its numbers in bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        if wrong := beyond(info.field_name or "", value):
            raise ValueError(wrong)
        return value


def toml_of(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: the content is not TOML; the message has the line and column.
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
    """The position at the end of this part of a text, in the words of tomllib."""
    return f"at line {before.count(chr(10)) + 1}, column {len(before.rpartition(chr(10))[2]) + 1}"


def closed(kind: type[T]) -> type[T]:
    """Make pydantic, and so the API, refuse unknown fields of a dataclass; return the class."""
    _forbid_unknown_fields(kind, set())
    return kind


def prepare(kinds: Iterable[type]) -> None:
    """Prepare to read and write these kinds; the first use of a large kind takes 0.1 s otherwise.

    May be called in a thread.
    """
    for kind in kinds:
        _adapter(kind)


def to_jsonable(value: object) -> Any:
    """Convert a value to plain dicts, lists, strings and numbers."""
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
    """JSON in UTF-8, without spaces; items of a list or tuple are written by their own types."""
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
    """Build a `kind` from plain data that any partitiond wrote; unknown fields are ignored.

    Raises:
        InputError: a field that is needed is missing or of another form.
    """
    try:
        built: T = _adapter(kind).validate_python(data, extra="ignore")
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def from_stored_json(kind: type[T], text: str | bytes) -> T:
    """Build a `kind` from JSON text that any partitiond wrote. Raises as `from_stored` does."""
    try:
        built: T = _adapter(kind).validate_json(text, extra="ignore")
        return built
    except ValidationError as error:
        raise _explain(kind, error) from error


def read_stored(kind: type[T], path: Path) -> T | None:
    """Read the body of a file that outlives this process; return None if there is no such file.

    Raises:
        InputError: there is one that cannot be read. It says as little of what runs as no file:
            whoever wants to know that asks the living process.
        OSError: this process can open nothing, which says nothing of the file.
    """
    try:
        return from_stored_json(kind, path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise_if_out_of_files(error)
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from error


_LISTS: Final = frozenset({"tuple_type", "list_type"})
_TABLES: Final = frozenset({"dict_type", "model_type", "model_attributes_type"})
_WORDS: Final = (
    ("Field required", "must be given"),
    ("Extra inputs are not permitted", "there is no such field"),
    ("Input should be a valid integer", "must be a whole number"),
    ("Input should be a valid", "must be a"),
    ("Input should", "must"),
)


def words_of(item: Mapping[str, Any], table: str = "a table") -> str:
    """Return what one error of pydantic says, in the words of who writes a file or a body."""
    if item["type"] in _LISTS | _TABLES:
        return f"must be {'a list' if item['type'] in _LISTS else table}"
    text = str(item["msg"]).removeprefix("Value error, ").partition(", unable to parse")[0]
    for theirs, plain in _WORDS:
        text = text.replace(theirs, plain)
    return text


def _explain(kind: type[Any], error: ValidationError) -> InputError:
    cause = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(cause, PartitiondError):
        return InputError(cause.message, hint=cause.hint, facts=cause.facts)
    lines = [
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {words_of(item)}"
        for item in error.errors(include_url=False)[:8]
    ]
    return InputError(
        f"not a valid {kind.__name__}: " + "; ".join(lines) + ".",
        hint="Correct the named fields.",
    )
