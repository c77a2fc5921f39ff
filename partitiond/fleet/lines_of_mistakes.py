"""Finds the line of each mistake in a fleet file, and the key that was meant."""

import collections
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from partitiond.core.errors import SpecError
from partitiond.serde import words_of

Place = tuple[str | int, ...]
"""Names of tables and keys, and numbers of entries from 0: ("models", 1, "demand", "req_per_s")."""

_HEADER: Final = re.compile(r"\s*(\[\[?)([\w.\-\s]+)\]")
_KEY: Final = re.compile(r"\s*([\w\-]+)\s*[.=]")
LISTED: Final = "`partitiond schema fleet` lists every key."


def lines_of(text: str) -> dict[Place, int]:
    """Return the number of the line of each table and key, as far as each has a line. Pure."""
    found: dict[Place, int] = {}
    entries: collections.Counter[Place] = collections.Counter()
    table: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            *above, name = "".join(header[2].split()).split(".")
            table = _current(above, entries)
            if header[1] == "[[":
                entries[*table, name] += 1
                table = (*table, name, entries[*table, name] - 1)
            else:
                table = (*table, name)
            for end in range(1, len(table) + 1):
                found.setdefault(table[:end], number)
        elif key := _KEY.match(line):
            found.setdefault((*table, key[1]), number)
    return found


def _current(names: Sequence[str], entries: Mapping[Place, int]) -> Place:
    """Return the place that a header's names stand for: of a list of tables, its last entry."""
    place: Place = ()
    for name in names:
        place = (*place, name)
        if entries[place]:
            place = (*place, entries[place] - 1)
    return place


def mistakes(
    path: Path, text: str, found: Sequence[tuple[Place, str, str]], hint: str = LISTED
) -> SpecError:
    """Return the error for all that is wrong in a file.

    Args:
        found: places, messages without the full stop, and what to do, which may be empty.
    """
    lines = lines_of(text)
    told = sorted((_line(lines, place), _words(place), what, cure) for place, what, cure in found)
    if len(told) == 1:
        line, where, what, cure = told[0]
        return SpecError(f"{path}, line {line}: {where}{what}.", hint=cure or hint)
    listed = "".join(
        f"\n  line {line}: {where}{what}.{f' {cure}' if cure else ''}"
        for line, where, what, cure in told
    )
    return SpecError(f"{path} has {len(told)} mistakes:{listed}", hint=hint)


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """Return the line of a place, or of the nearest table around it that has a line."""
    near = (lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines)
    return next(near, 1)


def _words(place: Place) -> str:
    parts = [part if isinstance(part, str) else f"entry {part + 1}" for part in place]
    return f"{', '.join(parts)}: " if parts else ""


def of_validation(
    error: ValidationError, schema: Mapping[str, Any]
) -> Iterator[tuple[Place, str, str]]:
    """Yield what a file's tables have wrong, for `mistakes`.

    Args:
        schema: the JSON schema of the file.
    """
    for item in error.errors(include_url=False):
        place, what = item["loc"], words_of(dict(item))
        if item["type"] == "extra_forbidden":
            *table, key = place
            yield place, "there is no such key", nearest_key(str(key), schema, table)
            continue
        given = item.get("input")
        if isinstance(given, dict) and place[-1:] in {("models",), ("devices",)}:
            yield place, "is a list of tables", f"Write [[{place[-1]}]] above each."
            continue
        shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
        yield place, f"{what}{shown}", ""


def nearest_key(key: str, schema: Mapping[str, Any], table: Sequence[str | int]) -> str:
    """Return which key of a table was meant by one that there is not. Pure."""
    known = keys_of(schema, table)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    deeper = [f"{name}.{key}" for name in known if key in keys_of(schema, (*table, name))]
    within = [name for name in known if key in name.split("_")]
    if near or deeper or within:
        return f"Did you mean {(deeper or near or within)[0]}?"
    return f"There are {', '.join(known)}."


def keys_of(schema: Mapping[str, Any], place: Sequence[str | int]) -> tuple[str, ...]:
    """Return the keys of the table at a place, by the file's schema. Pure."""
    node: Mapping[str, Any] = schema
    for part in (*place, None):
        options = [node, *node.get("anyOf", ())]
        named = (option["$ref"].rpartition("/")[2] for option in options if "$ref" in option)
        node = next((schema["$defs"][name] for name in named), node)
        if part is not None:
            below = (
                {part: node.get("items", {})}
                if isinstance(part, int)
                else node.get("properties", {})
            )
            node = below.get(part, {})
    return tuple(node.get("properties", ()))
