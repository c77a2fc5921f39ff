"""A table is specified by its columns: heading, value, alignment, and whether it is shown."""

import io

from rich.console import Console, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, bare_fields, fields, table_of


def drawn(what: RenderableType, width: int = 60) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.strip() for line in file.getvalue().splitlines() if line.strip()]


def test_figures_stand_at_the_right_and_hidden_columns_are_left_out() -> None:
    table = table_of(
        [("a", 1), ("bb", 22)],
        Column("name", lambda row: row[0], right=False),
        Column("count", lambda row: str(row[1])),
        Column("more", lambda _: "never", shown=False),
    )
    lines = drawn(table)
    assert lines[0] == "name   count"
    assert lines[-2:] == ["a          1", "bb        22"]


def test_brackets_are_no_markup() -> None:
    assert drawn(fields([("field", "[red]x[/red]")]))[-1].endswith("[red]x[/red]")


def test_fields_may_stand_without_headings() -> None:
    assert drawn(bare_fields([("state", Text("fine")), ("note", "none")])) == [
        "state  fine",
        "note   none",
    ]
