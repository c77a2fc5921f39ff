"""Specifies tables and blocks of fields for the terminal: a column is its heading and its value."""

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from partitiond.cli.options import IN_UTC
from partitiond.cli.output import PIPE_WIDTH

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table.

    Attributes:
        heading: one that begins with ">" is right-aligned, as figures are.
        value: the cell of a row.
        whole: never break a cell, such as an id or a time.
        shown: whether the table has the column at all.
    """

    heading: str
    value: Callable[[T], str | Text]
    whole: bool = False
    shown: bool = True


def time_text(iso: str) -> str:
    """Write a moment in this machine's zone, with its offset; in UTC after `--utc`."""
    if iso in ("", "?"):
        return iso or "-"
    there = datetime.fromisoformat(iso).astimezone(UTC if IN_UTC.get() else None)
    return there.isoformat(timespec="seconds").replace("+00:00", "Z")


def table_of(
    rows: Iterable[T], *columns: Column[T], bold: Callable[[T], bool] | None = None
) -> Table:
    """Draw a plain table with a line for each row; those that `bold` names stand out."""
    there = [column for column in columns if column.shown]
    table = _table_with((column.heading, column.whole) for column in there)
    for row in rows:
        cells = [_literal(column.value(row)) for column in there]
        table.add_row(*cells, style="bold" if bold is not None and bold(row) else "")
    return table


def _literal(value: str | Text) -> Text:
    """Keep brackets in a name or a message from being read as markup."""
    return value if isinstance(value, Text) else Text(value)


def fields(
    pairs: Iterable[tuple[str, str | Text]], headings: tuple[str, str] = ("field", "value")
) -> Table:
    """Draw a line for each name and its value, under headings."""
    table = _table_with((heading, False) for heading in headings)
    for name, value in pairs:
        table.add_row(name, _literal(value))
    return table


def bare_fields(pairs: Iterable[tuple[str, str | Text]]) -> Table:
    """Draw a line for each name and its value, without headings; names are not broken."""
    table = fields(pairs, ("", ""))
    table.show_header = False
    table.box = None
    table.columns[0].no_wrap = True
    return table


def titled(title: str, body: RenderableType) -> RenderableType:
    """Put a bold title, after an empty line, above the body."""
    return Group(Text(f"\n{title}", style="bold"), body)


class _Table(Table):
    """A table whose gaps become narrower before its words are broken."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wanted = console.measure(self, options=options.update(max_width=PIPE_WIDTH)).maximum
        self.collapse_padding = wanted > options.max_width
        return super().__rich_console__(console, options)


def _table_with(headings: Iterable[tuple[str, bool]]) -> Table:
    """Make a table without rows, of headings and whether their cells are never broken."""
    table = _Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading, whole in headings:
        justify: Literal["left", "right"] = "right" if heading.startswith(">") else "left"
        table.add_column(heading.removeprefix(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table
