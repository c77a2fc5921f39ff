"""Specifies tables and blocks of fields for the terminal: a column is its heading and its value."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
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
        value: the cell of a row.
        right: align to the right, as figures are.
        whole: never break a cell, such as an id or a time.
        shown: whether the table has the column at all.
    """

    heading: str
    value: Callable[[T], str | Text]
    right: bool = True
    whole: bool = False
    shown: bool = True


def time_text(iso: str) -> str:
    """Write a moment in this machine's zone, with its offset; in UTC after `--utc`."""
    if iso in ("", "?"):
        return iso or "-"
    there = datetime.fromisoformat(iso).astimezone(UTC if IN_UTC.get() else None)
    return there.isoformat(timespec="seconds").replace("+00:00", "Z")


def table_of(rows: Iterable[T], *columns: Column[T]) -> Table:
    """Draw a plain table with a line for each row."""
    there = [column for column in columns if column.shown]
    table = new_table()
    for column in there:
        _add(table, column.heading, right=column.right, whole=column.whole)
    for row in rows:
        cells = [_literal(column.value(row)) for column in there]
        table.add_row(*cells)
    return table


def _literal(value: str | Text) -> Text:
    """Keep brackets in a name or a message from being read as markup."""
    return value if isinstance(value, Text) else Text(value)


def fields(
    pairs: Iterable[tuple[str, str | Text]], headings: tuple[str, str] = ("field", "value")
) -> Table:
    """Draw a line for each name and its value, under headings."""
    table = new_table(*headings)
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


def new_table(*headers: str, whole: Collection[str] = ()) -> Table:
    """Make a table without rows, for columns that depend on the rows.

    Args:
        headers: headings; one that starts with ">" is right-aligned.
        whole: headers of columns that are never broken, such as ids and times.
    """
    table = _Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in headers:
        right = header.startswith(">")
        _add(table, header.removeprefix(">"), right=right, whole=header in whole)
    return table


def _add(table: Table, heading: str, *, right: bool, whole: bool) -> None:
    justify: Literal["left", "right"] = "right" if right else "left"
    table.add_column(heading, justify=justify, overflow="fold", no_wrap=whole)
