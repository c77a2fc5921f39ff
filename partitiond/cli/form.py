"""Makes options of the fields of a body, and the body of the options that were given.

A field's description, type and default are those of the body: an option names its field, and how
people write its value.
"""

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One option for a field.

    Attributes:
        path: of the field, as "demand.req_per_s".
        flag: as typed; if empty, it is made of the field's name.
        metavar: word for the value; if empty, it is made of the field's type.
        about: help text; if empty, the field's description.
        read: converts the text or the texts that were given; for a field that is no table, a
            mapping names fields beside it.
        nothing: the word that returns a text or a list to its default; empty for none.
        zero: whether 0 stands for null.
    """

    path: str
    flag: str = ""
    metavar: str = ""
    about: str = ""
    read: Callable[[Any], object] | None = None
    nothing: str = ""
    zero: bool = False

    @property
    def typed(self) -> str:
        """The option as people type it."""
        made = f"--{self.path.rpartition('.')[2].replace('_', '-')}"
        return self.flag.partition("/")[0] or made


class OptionForm:
    """Options for fields of a body.

    Args:
        body: has the fields.
        rows: the options, in the order in which the help lists them.
    """

    def __init__(self, body: "type[BaseModel]", *rows: Row) -> None:
        self.rows = rows
        self._body = body

    def only(self, *paths: str) -> "OptionForm":
        """Return the form with the options of some fields alone."""
        return OptionForm(self._body, *(row for row in self.rows if row.path in paths))

    def names(self) -> Iterator[str]:
        """Yield the names of the options, as parameters of a function have them."""
        yield from (_name(row) for row in self.rows)

    def parameters(self) -> Iterator[inspect.Parameter]:
        """Yield the parameters from which typer makes the options."""
        for row in self.rows:
            field = self._field(row)
            kind, metavar = _kind_of(row, field.annotation)
            about = _help(row, field, many=kind == list[str])
            flags = row.flag or f"--{row.path.rpartition('.')[2].replace('_', '-')}"
            if kind is bool and not row.flag:
                flags = f"{flags}/--no-{flags[2:]}"
            told = typer.Option(flags, help=about, metavar=row.metavar or metavar or None)
            yield inspect.Parameter(
                _name(row),
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, told],
            )

    def body_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body with the options that were given.

        Args:
            given: values by name; None and empty lists were not given.

        Raises:
            typer.BadParameter: two options exclude each other.
        """
        body: dict[str, Any] = {}
        for row in self.rows:
            value = given.get(_name(row))
            if value is not None and value != []:
                field = self._field(row)
                table = _table_of(field.annotation) or typing.get_origin(field.annotation) is dict
                _put(body, row, self._converted(row, field, value), whole=bool(table))
        return body

    def _converted(self, row: Row, field: Any, value: Any) -> object:
        many, nothing = isinstance(value, list), row.nothing or "none"
        if many and nothing in value:
            if len(value) > 1:
                raise typer.BadParameter(f"{row.typed} {nothing} stands alone.")
            return field.get_default()
        if value == row.nothing and row.nothing:
            return field.get_default()
        if row.zero and not value:
            return None
        if row.read is not None:
            return row.read(value)
        if isinstance(value, bool) and _table_of(field.annotation) is not None:
            return {} if value else None
        return value

    def _field(self, row: Row) -> Any:
        body, field = self._body, None
        for part in row.path.split("."):
            field = body.model_fields[part]
            body = _table_of(field.annotation) or body
        return field


def _name(row: Row) -> str:
    return row.typed[2:].replace("-", "_")


def _put(body: dict[str, Any], row: Row, value: object, *, whole: bool) -> None:
    """Set a field of a body; a mapping that is no `whole` value has fields beside it as well."""
    *above, name = row.path.split(".")
    table = body
    for part in above:
        table = table.setdefault(part, {})
        if table is None:
            raise typer.BadParameter(f"{row.typed} and --no-{part} exclude each other.")
    if isinstance(value, Mapping) and not whole:
        table |= value
    else:
        table[name] = value


def _member(kind: Any) -> Any:
    """Return the type of a field that may also be null."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _table_of(kind: Any) -> "type[BaseModel] | None":
    member = _member(kind)
    return member if hasattr(member, "model_fields") else None


def _kind_of(row: Row, annotation: Any) -> tuple[Any, str]:
    """Return the type of an option, and the word for its value."""
    kind = _member(annotation)
    if typing.get_origin(kind) in (tuple, list, dict):
        return list[str], ""
    if row.read is not None:
        return str, ""
    if typing.get_origin(kind) is Literal:
        return str, "|".join(word for word in typing.get_args(kind) if word)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return str, "|".join(str(member.value) for member in kind)
    return (bool if _table_of(kind) is not None else kind), ""


def _help(row: Row, field: Any, *, many: bool) -> str:
    about = re.sub(r"\bnull\b", "left out", row.about or field.description or "").rstrip(".")
    default = field.get_default()
    if isinstance(default, int | float) and default and not isinstance(default, bool):
        about += "" if row.about else f" [{default:g}]"
    if many:
        about += f"; repeatable; {row.nothing or 'none'!r} for {row.nothing or 'none'}"
    elif row.nothing:
        about += f"; {row.nothing!r} for the default"
    return f"{about}; 0 for never." if row.zero else f"{about}."
