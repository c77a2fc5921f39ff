"""Saves runs to files and loads them: one line describes the run, then one line each request.

Everything in a report can be computed again from the file. Times are in seconds from the
window's opening, to the nanosecond; chunk times are gaps in nanoseconds, which compress well.
"""

import dataclasses
import itertools
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loadgen.errors import InputError
from loadgen.load.traces import open_text
from loadgen.loops.instrument import Reading
from loadgen.results.records import Outcome, Record
from loadgen.results.runs import Run
from loadgen.results.statistics import Slo

VERSION: Final = 1
_PLAIN: Final = (
    "index", "status", "error", "retry_after", "output_tokens", "usage_tokens", "prompt_tokens",
    "wanted_prompt_tokens", "wanted_output_tokens", "stream", "replica",
)  # fmt: skip
_EMPTY: Final = Record(0)


def save_run(run: Run, path: Path) -> None:
    """Write a run; an unfinished file never has the final name.

    Raises:
        InputError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(_line(_header(run)))
            file.writelines(_line(_entry(record, run.opened)) for record in run.records)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}. Choose another file.") from error


def load_run(path: Path) -> Run:
    """Read a saved run.

    Raises:
        InputError: the file cannot be read or holds no saved run; the message names the line.
    """
    line = 1
    with open_text(path) as file:
        try:
            header = json.loads(file.readline())
            if not isinstance(header, dict) or header.get("loadgen") != VERSION:
                raise ValueError(f"no run saved by `--save` (version {VERSION})")
            records = []
            for text in file:
                line += 1
                records.append(_record(json.loads(text)))
            return _run(header, tuple(records))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {line} is not JSON: the file is cut short, or was not written by "
                "--save. Give a file that --save wrote."
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text. Give a file that --save wrote.") from error
        except RecursionError as error:
            raise InputError(
                f"{path}, line {line} is nested too deeply. Give a file that --save wrote."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError) as error:
            raise InputError(f"{path}, line {line}: {error}") from error


def _line(data: object) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"


def _header(run: Run) -> dict[str, Any]:
    return {
        "loadgen": VERSION,
        "loop": run.loop,
        "load": run.load,
        "window_seconds": run.window_seconds,
        "wide": run.wide,
        "instrument": dataclasses.asdict(run.instrument),
        "slos": {name: dataclasses.asdict(slo) for name, slo in run.slos.items()},
        "settings": dict(run.settings),
        "started_unix": run.started_unix,
    }


def _run(header: Mapping[str, Any], records: tuple[Record, ...]) -> Run:
    return Run(
        loop=header["loop"],
        load=header["load"],
        records=records,
        opened=0.0,
        closed=float(header["window_seconds"]),
        wide=header["wide"],
        instrument=Reading(**header["instrument"]),
        slos={name: Slo(**slo) for name, slo in header["slos"].items()},
        settings=header["settings"],
        started_unix=header["started_unix"],
    )


def _entry(record: Record, opened: float) -> dict[str, Any]:
    entry: dict[str, Any] = {
        name: value
        for name in _PLAIN
        if (value := getattr(record, name)) != getattr(_EMPTY, name) or name == "index"
    }
    entry["outcome"] = record.outcome.value
    for name in ("scheduled", "sent", "end"):
        at = getattr(record, name)
        if at is not None:
            entry[name] = round(at - opened, 9)
    if record.chunk_times:
        ticks = [round((at - opened) * 1e9) for at in record.chunk_times]
        entry["first_ns"] = ticks[0]
        entry["gaps_ns"] = [after - before for before, after in itertools.pairwise(ticks)]
        if any(tokens != 1 for tokens in record.chunk_tokens):
            entry["chunk_tokens"] = list(record.chunk_tokens)
    return entry


def _record(entry: Mapping[str, Any]) -> Record:
    record = Record(**{name: entry[name] for name in _PLAIN if name in entry})
    record.outcome = Outcome(entry["outcome"])
    record.scheduled = entry.get("scheduled")
    record.sent, record.end = entry.get("sent"), entry.get("end")
    if "first_ns" in entry:
        ticks = itertools.accumulate(entry["gaps_ns"], initial=entry["first_ns"])
        record.chunk_times = array("d", (tick / 1e9 for tick in ticks))
        ones = [1] * len(record.chunk_times)
        record.chunk_tokens = array("I", entry.get("chunk_tokens") or ones)
    return record
