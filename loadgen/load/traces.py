"""Reads recorded traffic row by row: the arrival times of requests and their lengths.

The reader knows three public formats by their first line: BurstGPT (CSV), the Azure LLM inference
traces (CSV) and Mooncake (JSON lines), and lengths alone (CSV), each plain or gzipped. Requests
without a prompt or an output (BurstGPT's form of failed requests) cannot be replayed; they are
skipped and counted.
"""

import csv
import dataclasses
import datetime
import enum
import functools
import gzip
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO, cast

from loadgen.errors import InputError
from loadgen.load.lengths import Lengths, choice, in_order

MAX_TOKENS: Final = 10_000_000
"""A larger length is a misread column."""
MOST_CHARACTERS: Final = 1_000_000
"""Of a line: a device may have no end of one."""


_MALFORMED: Final = (
    ValueError, KeyError, TypeError, OverflowError, csv.Error, EOFError, OSError, zlib.error
)  # fmt: skip
"""All errors that a malformed row or file can cause in its parser."""


class TraceKind(enum.StrEnum):
    """Formats of recorded traffic."""

    BURSTGPT = "burstgpt"
    AZURE = "azure"
    MOONCAKE = "mooncake"
    PAIRS = "pairs"
    """CSV with the columns prompt_tokens and output_tokens, without times."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request.

    Attributes:
        at: arrival in seconds, on the trace's own clock.
        blocks: identities of the prompt's blocks of 512 tokens, if the trace has them.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """Recorded requests in order of arrival.

    Attributes:
        name: file name, for reports.
        skipped: number of rows that cannot be replayed.
    """

    name: str
    rows: tuple[TraceRow, ...]
    skipped: int = 0

    @property
    def offsets(self) -> tuple[float, ...]:
        """Arrivals in seconds from the first."""
        return tuple(row.at - self.rows[0].at for row in self.rows)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(prompt, output) lengths of each request."""
        return tuple((row.prompt_tokens, row.output_tokens) for row in self.rows)

    @property
    def in_order(self) -> Lengths:
        """Lengths for a replay: each request with its own lengths, shared prefixes included."""
        blocks = [row.blocks for row in self.rows] if any(r.blocks for r in self.rows) else []
        made = in_order(self.pairs, blocks)
        return dataclasses.replace(made, description=f"as in {self.name}")

    @property
    def drawn(self) -> Lengths:
        """Lengths drawn from the trace, for arrivals of another kind."""
        return dataclasses.replace(choice(self.pairs), description=f"drawn from {self.name}")


def read_trace(
    path: Path | str,
    *,
    kind: TraceKind | None = None,
    start_seconds: float = 0.0,
    limit: int | None = None,
) -> Trace:
    """Read a trace, or a part of it.

    Args:
        path: the file.
        kind: the file's format; None recognises it by the first line.
        start_seconds: leave out requests that came less than this long after the first row.
        limit: largest number of requests to read.

    Raises:
        InputError: the file cannot be read, has no usable row, or a row is malformed.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"the limit of requests must be at least 1, got {limit}")
    rows: list[TraceRow] = []
    skipped, first = 0, None
    for row in _rows(path, kind):
        first = row.at if first is None else first
        if start_seconds and row.at - first < start_seconds:
            continue
        if row.prompt_tokens < 1 or row.output_tokens < 1:
            skipped += 1
            continue
        rows.append(row)
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        late = f" from second {start_seconds:g} on" if start_seconds else ""
        raise InputError(
            f"{path} holds no request with a prompt and an output{late} ({skipped} rows without). "
            "Give a trace with requests, or a smaller --start."
        )
    return Trace(path.name, tuple(sorted(rows, key=lambda row: row.at)), skipped)


def open_text(path: Path) -> TextIO:
    """Open a text file, gzipped or not.

    Raises:
        InputError: the file cannot be opened.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        opener = gzip.open if zipped else open
        return cast(TextIO, opener(path, "rt", encoding="utf-8-sig", newline=""))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check the path.") from error


def _rows(path: Path, kind: TraceKind | None) -> Iterator[TraceRow]:
    line = 1
    with open_text(path) as file:
        try:
            lines = iter(functools.partial(file.readline, MOST_CHARACTERS), "")
            head = next(lines, "")
            kind = kind or _kind(head, path)
            if kind is TraceKind.MOONCAKE:
                line = 0
                for text in itertools.chain([head], lines):
                    line += 1
                    if text.strip():
                        yield _mooncake(json.loads(text))
                return
            columns = [name.strip().lower() for name in next(csv.reader([head]), [])]
            read = _reader(kind, columns)
            for cells in csv.reader(lines):
                line += 1
                if cells:
                    yield read(cells)
        except _MALFORMED as error:
            raise InputError(f"{path}, line {line}: {_reason(error)}") from error


def _kind(head: str, path: Path) -> TraceKind:
    """The format of a file with this first line."""
    if not head.strip():
        raise InputError(f"{path} is empty. Give a file with recorded requests.")
    if head.lstrip().startswith("{"):
        return TraceKind.MOONCAKE
    columns = {name.strip().lower() for name in head.split(",")}
    if "request tokens" in columns:
        return TraceKind.BURSTGPT
    if "contexttokens" in columns:
        return TraceKind.AZURE
    if "prompt_tokens" in columns:
        return TraceKind.PAIRS
    raise InputError(
        f"{path} is no trace that is known: its first line is {head.strip()[:80]!r}. Known are "
        "BurstGPT (Timestamp,Model,Request tokens,Response tokens,...), Azure "
        "(TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake (JSON lines with timestamp, "
        "input_length, output_length), and CSV with prompt_tokens,output_tokens."
    )


def _reader(kind: TraceKind, columns: list[str]) -> Callable[[list[str]], TraceRow]:
    names = {
        TraceKind.BURSTGPT: ("timestamp", "request tokens", "response tokens"),
        TraceKind.AZURE: ("timestamp", "contexttokens", "generatedtokens"),
    }.get(kind, ("prompt_tokens", "prompt_tokens", "output_tokens"))
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r} in {', '.join(columns)}")
    at, prompt, output = (columns.index(name) for name in names)
    time = _instant if kind is TraceKind.AZURE else _seconds

    def read(cells: list[str]) -> TraceRow:
        if len(cells) <= max(at, prompt, output):
            raise ValueError(f"{len(cells)} cells where {len(columns)} are named")
        when = 0.0 if kind is TraceKind.PAIRS else time(cells[at])
        return TraceRow(when, _tokens(cells[prompt]), _tokens(cells[output]))

    return read


def _mooncake(entry: Any) -> TraceRow:
    if not isinstance(entry, dict):
        raise TypeError("it is no JSON object")
    return TraceRow(
        at=_seconds(entry["timestamp"]) / 1000,
        prompt_tokens=_tokens(entry["input_length"]),
        output_tokens=_tokens(entry["output_length"]),
        blocks=tuple(int(block) for block in entry.get("hash_ids") or ()),
    )


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is no time")
    return seconds


def _instant(text: str) -> float:
    instant = datetime.datetime.fromisoformat(text.strip())
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=datetime.UTC)
    return instant.timestamp()


def _tokens(value: Any) -> int:
    number = float(value)
    if not (0 <= number <= MAX_TOKENS) or number != int(number):
        raise ValueError(f"{value!r} is no number of tokens")
    return int(number)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg}"
    return str(error) or type(error).__name__
