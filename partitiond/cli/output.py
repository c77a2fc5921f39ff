"""Writes to people and programs: results to stdout, errors and progress to stderr."""

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from partitiond.core.errors import PartitiondError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


PIPE_WIDTH: Final = 10_000
"""Columns of a table in a pipe or a file: wider than any record."""
LONGEST_WORD: Final = 300
"""Characters of a word that is cut; paths and ids have fewer."""


@functools.cache
def out() -> "Console":
    """Standard output: results."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    # A pipe has no width: one record stays on one line, whole, unless a width is asked for.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


@functools.cache
def err() -> "Console":
    """Standard error: progress and messages, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Write one line for people on stderr, taken literally (no markup)."""
    console = err()
    # A log keeps its lines whole; a terminal gets them wrapped between words.
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def jsonable(value: object) -> Any:
    """Convert a result to plain data: core dataclasses, mappings and sequences of them."""
    from partitiond.serde import to_jsonable

    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [jsonable(item) for item in value]
    return to_jsonable(value)


def print_json(value: object) -> None:
    """Write the value as indented JSON on stdout."""
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def emit(value: object, *, as_json: bool, render: "Callable[[], RenderableType]") -> None:
    """Print `value` as JSON, or what `render` draws for people."""
    if as_json:
        print_json(value)
    else:
        # A table fits; the terminal breaks an id that is longer than a line.
        out().print(render(), crop=False)


def tell(value: object, text: str, *, as_json: bool) -> None:
    """Print `value` as JSON, or say in a line what was done."""
    if as_json:
        print_json(value)
    else:
        say(text)


def print_error(error: PartitiondError) -> None:
    """Write the error's message and hint on stderr, without a traceback."""
    say(f"error: {shortened(error.message)}")
    if error.hint:
        say(f"  what to do: {shortened(error.hint)}")


def shortened(text: str) -> str:
    """Cut words that are too long to be read, such as one of 5000 letters."""
    return re.sub(
        rf"\S{{{LONGEST_WORD},}}",
        lambda found: f"{found[0][: LONGEST_WORD // 2]}... ({len(found[0])} characters)",
        text,
    )
