"""Reads, merges and explains settings from all sources, for any schema of nested tables.

Each source becomes a `Layer`: dotted key -> plain JSON value, and dotted key -> origin. Layers
are merged and validated once, so that a message about a value can name where it was written.
"""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from partitiond.core.errors import InputError, SettingsError
from partitiond.serde import toml_of, words_of

S = TypeVar("S", bound=BaseModel)

ENV_PREFIX: Final = "PARTITIOND_"
CONFIG_VARIABLE: Final = "PARTITIOND_CONFIG"
GONE: Final = ("engine.cgroup", "gpu.dcgm_url")
"""Settings of the release before, which files and units of an upgraded host may still have."""
NOT_SETTINGS: Final = frozenset(
    {
        CONFIG_VARIABLE,
        "PARTITIOND_URL",
        "PARTITIOND_TOKEN",
        # Use and folder of the proxy's compiled modules, read before the settings: see `native`.
        "PARTITIOND_NATIVE",
        "PARTITIOND_NATIVE_DIR",
        # Ends the daemon in tests: see `fault_points`.
        "PARTITIOND_FAULT_POINT",
    }
)
"""Variables of the command line, not of the schema: settings file, control URL, admin token."""
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")
"""Kubernetes sets PARTITIOND_PORT=tcp://... and the like for a service of our name; ignored."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One source: values and origins by dotted key."""

    values: dict[str, object]
    origins: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting, as documented.

    Attributes:
        key: dotted key; the part before the dot is the TOML table.
        type: in words: text, path, whole number, number, yes/no, size, list of ..., one of ....
        default: as text.
        environment: name of its environment variable.
    """

    key: str
    type: str
    default: str
    description: str
    environment: str


def _leaves(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _variable(key: str) -> str:
    return ENV_PREFIX + key.replace(".", "__").upper()


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested tables to dotted keys; empty tables vanish."""
    flat: dict[str, object] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _nest(flat: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, name = key.split(".")
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return nested


# --- sources ---------------------------------------------------------------------------------


def find_config_file(
    given: Path | None, env: Mapping[str, str], defaults: Sequence[Path]
) -> Path | None:
    """Return the file to read, or None. A named file must exist."""
    named = given if given is not None else env.get(CONFIG_VARIABLE) or None
    if named is not None:
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise SettingsError(
                f"settings file {path} does not exist or is no file.",
                hint="Correct the path, or leave it out to use the defaults.",
                facts={"file": str(path)},
            )
        return path
    return next((path for path in defaults if path.is_file()), None)


def from_file(schema: type[BaseModel], path: Path) -> Layer:
    """Read a TOML file. Raises SettingsError with the line of a syntax error."""
    facts = {"file": str(path)}
    try:
        nested = toml_of(path.read_bytes())
    except InputError as error:
        raise SettingsError(
            f"{path} is not valid TOML: {error.message}", hint=error.hint, facts=facts
        ) from error
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}.",
            hint="Correct its permissions.",
            facts=facts,
        ) from error
    fields = dict(_leaves(schema))
    _refuse_unknown_keys(fields, nested, path)
    values = flatten(nested)
    for key, value in values.items():
        if _holds(fields[key].annotation, Path):
            values[key] = _beside(value, path.parent)
    return Layer(values, {key: f"file {path}:{key}" for key in values})


def _refuse_unknown_keys(
    fields: Mapping[str, FieldInfo], nested: Mapping[str, Any], path: Path
) -> None:
    tables = {key.split(".")[0] for key in fields if "." in key}
    for name, value in nested.items():
        if name in tables and not isinstance(value, Mapping):
            raise SettingsError(
                f"{path}: {name} is a table, not a value.",
                hint=f"Write [{name}] on a line of its own and its settings below.",
                facts={"file": str(path), "key": name},
            )
        if name not in tables and value == {}:
            _refuse_unknown(name, f"{path}: [{name}]", sorted(tables), {"key": name})
    for key in flatten(nested):
        if key not in fields:
            _refuse_unknown(key, f"{path}: {key}", list(fields), {"file": str(path), "key": key})


def _beside(value: object, folder: Path) -> object:
    """Resolve a relative path in a file against the file's folder."""
    if isinstance(value, str):
        return str(folder / Path(value).expanduser())
    return [_beside(item, folder) for item in value] if isinstance(value, list) else value


def from_environment(schema: type[BaseModel], env: Mapping[str, str]) -> Layer:
    """Read PARTITIOND_<TABLE>__<FIELD>. Raises SettingsError for an unknown variable."""
    fields = dict(_leaves(schema))
    by_variable = {_variable(key): key for key in fields}
    values: dict[str, object] = {}
    for variable, text in sorted(env.items()):
        if not variable.startswith(ENV_PREFIX) or variable in NOT_SETTINGS:
            continue
        key = by_variable.get(variable)
        if key is None:
            if not _SERVICE_LINK.search(variable) and "://" not in text:
                _refuse_unknown(variable, f"environment {variable}", list(by_variable), {})
            continue
        values[key] = parse_text(fields[key].annotation, text)
    return Layer(values, {key: f"environment {_variable(key)}" for key in values})


def from_overrides(
    schema: type[BaseModel], overrides: Mapping[str, object], where: str = "--set"
) -> Layer:
    """Read values by dotted key, given after --set or at `where`; None means not given."""
    fields = dict(_leaves(schema))
    values: dict[str, object] = {}
    for key, value in overrides.items():
        if key not in fields:
            _refuse_unknown(key, f"{where} {key}", list(fields), {"key": key})
        if isinstance(value, str):
            values[key] = parse_text(fields[key].annotation, value)
        elif value is not None:
            values[key] = _plain(value)
    return Layer(values, {key: f"{where} {key}" for key in values})


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _refuse_unknown(
    key: str, where: str, known: Sequence[str], facts: Mapping[str, object]
) -> typing.NoReturn:
    close = [name for name in known if name.startswith(f"{key}_")]
    close += difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]}?" if close else "`partitiond setup config show` lists all."
    if key in GONE or key in map(_variable, GONE):
        hint = "An earlier release had it, and nothing takes its place: take it out."
    raise SettingsError(f"{where} is no setting.", hint=hint, facts=facts)


# --- text to values --------------------------------------------------------------------------


def _choices(kind: Any) -> tuple[Any, ...]:
    """Return members of a union, None left out; annotations unwrapped."""
    if typing.get_origin(kind) is typing.Annotated:
        return _choices(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(
            member
            for argument in typing.get_args(kind)
            if argument is not type(None)
            for member in _choices(argument)
        )
    return (kind,)


def _holds(kind: Any, wanted: type) -> bool:
    """Return whether a field's type is `wanted`, or an optional or a tuple of `wanted`."""
    return any(
        choice is wanted
        or (typing.get_origin(choice) is tuple and _holds(typing.get_args(choice)[0], wanted))
        for choice in _choices(kind)
    )


def parse_text(kind: Any, text: str) -> object:
    """Convert a variable's or flag's text to a field's plain value; it is validated later.

    Lists are comma-separated. An empty text is None for an optional field.
    """
    (choice,) = _choices(kind)
    optional = type(None) in typing.get_args(kind)
    stripped = text.strip()
    if optional and not stripped:
        return None
    if typing.get_origin(choice) is tuple:
        item = typing.get_args(choice)[0]
        parts = stripped.removeprefix("[").removesuffix("]").split(",")
        return [parse_text(item, part.strip(" \t\"'")) for part in parts if part.strip()]
    if choice is bool:
        return {"true": True, "1": True, "yes": True, "on": True}.get(
            stripped.lower(), False if stripped.lower() in {"false", "0", "no", "off"} else text
        )
    for number in (int, float):
        if choice in (int, float) or _is_size(choice):
            try:
                return number(stripped)
            except ValueError:
                continue
    return text


def _is_size(kind: Any) -> bool:
    return getattr(kind, "__supertype__", None) is int


# --- merging, validating, explaining ---------------------------------------------------------


def build(schema: type[S], layers: Sequence[Layer]) -> tuple[S, dict[str, str]]:
    """Merge and validate. Validation is strict: "8400" is not a number, and 1 is not a yes.

    Raises:
        SettingsError: every refused value with its origin.
    """
    values: dict[str, object] = {}
    origins = {key: "default" for key, _ in _leaves(schema)}
    for layer in layers:
        values.update(layer.values)
        origins.update(layer.origins)
    try:
        text = json.dumps(_nest(values), default=str)  # TOML dates become text, which is refused
        return schema.model_validate_json(text, strict=True), origins
    except ValidationError as error:
        problems = [_explain(item, origins) for item in error.errors()[:8]]
        raise SettingsError(
            "; ".join(problems) + ".",
            hint="Correct the named settings; `partitiond setup config show` lists all.",
            facts={"problems": problems},
        ) from error


def _explain(item: ErrorDetails, origins: Mapping[str, str]) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path[:2]) if ".".join(path[:2]) in origins else ".".join(path[:1])
    message = words_of(dict(item))
    if key not in origins:
        return message
    return f"{key}: {message}, got {item['input']!r} ({origins[key]})"


def describe(schema: type[BaseModel]) -> tuple[SettingInfo, ...]:
    """Return every setting in the order of the schema."""
    return tuple(
        SettingInfo(
            key, _type_words(field), _default_text(field), field.description or "", _variable(key)
        )
        for key, field in _leaves(schema)
    )


_WORDS: Final[dict[Any, str]] = {
    str: "text",
    Path: "path",
    int: "whole number",
    float: "number",
    bool: "yes/no",
}


def _type_words(field: FieldInfo) -> str:
    words = _kind_words(field.annotation)
    return f"{words} or unset" if type(None) in typing.get_args(field.annotation) else words


def _kind_words(kind: Any) -> str:
    (choice,) = _choices(kind)
    if typing.get_origin(choice) is tuple:
        return f"list of {_kind_words(typing.get_args(choice)[0])}s"
    if typing.get_origin(choice) is Literal:
        return "one of " + ", ".join(typing.get_args(choice))
    if _is_size(choice):
        return "size"
    return _WORDS.get(choice) or "one of " + ", ".join(member.value for member in choice)


def _default_text(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_text" in extra:
        return str(extra["default_text"])
    default = field.default
    if default is None or default is PydanticUndefined:
        return "unset"
    if isinstance(default, tuple):
        return json.dumps(list(default))
    return str(default).lower() if isinstance(default, bool) else str(default)
