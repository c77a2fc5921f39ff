"""Reads workloads as people write them in requests, fleet files and options, or trace files."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.engine_task import EngineTask
from partitiond.core.model.families.encoders import ENCODERS
from partitiond.core.model.spec import DEFAULT_WORKLOAD, EngineOptions
from partitiond.core.model.workload import MAX_TOKENS, MAX_TRACE_PAIRS, LengthShape, Workload
from partitiond.core.units import format_bytes

MAX_PAIRS_FILE_BYTES: Final = 512 * 1024**2
"""Public traces are smaller; a larger file is not a trace."""
PROMPT_COLUMNS: Final = ("prompt_tokens", "contexttokens", "request tokens", "input_length")
OUTPUT_COLUMNS: Final = ("output_tokens", "generatedtokens", "response tokens", "output_length")
"""Names of partitiond, the Azure LLM traces, BurstGPT and Mooncake, in lower case."""


def default_workload(architecture: Architecture | None, engine: EngineOptions) -> Workload:
    """Return the workload of a model for which none is given.

    A model that pools (an encoder, or by the flags of its engine) answers in one step, which counts
    as an output of 1 token, and its prompt is shortened to what the context has room for. A model
    that generates has the usual one, also where it does not fit: its user says what is asked of it.

    Args:
        architecture: of the model; None if only the engine can tell it.
        engine: options of its engine.
    """
    encoder = architecture is not None and architecture.family in ENCODERS
    if not encoder and engine.task is EngineTask.GENERATE:
        return DEFAULT_WORKLOAD
    built_for = architecture.max_position if architecture else MAX_TOKENS
    room = min(engine.max_model_len or built_for, built_for) - 1
    return Workload(min(DEFAULT_WORKLOAD.prompt_tokens, max(1, room)), 1)


def workload_of(
    default: Workload = DEFAULT_WORKLOAD,
    *,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    shape: LengthShape | None = None,
    prompt_variation: float | None = None,
    output_variation: float | None = None,
    pairs: Iterable[tuple[int, int]] = (),
) -> Workload:
    """Make a workload from the given values; a shape that is not given follows from them.

    Pairs make a trace, a variation makes a lognormal, anything else is fixed. The means of a trace
    follow from its pairs. Means that are not given are those of `default`.

    Raises:
        SpecError: the values contradict each other or are out of range.
    """
    given_pairs = tuple((int(prompt), int(output)) for prompt, output in pairs)
    variations = (prompt_variation or 0.0, output_variation or 0.0)
    if shape is None:
        shape = _shape(given_pairs, variations)
    if shape is LengthShape.TRACE and given_pairs and not any(variations):
        traced = Workload.of_trace(given_pairs)
        if prompt_tokens not in (None, traced.prompt_tokens) or output_tokens not in (
            None,
            traced.output_tokens,
        ):
            raise SpecError(
                f"the means of a trace follow from its pairs ({traced.prompt_tokens} and "
                f"{traced.output_tokens} tokens).",
                hint="Leave prompt_tokens and output_tokens out, or give the shape 'fixed'.",
            )
        return traced
    return Workload(
        default.prompt_tokens if prompt_tokens is None else prompt_tokens,
        default.output_tokens if output_tokens is None else output_tokens,
        shape,
        *variations,
        pairs=given_pairs,
    )


def _shape(pairs: tuple[tuple[int, int], ...], variations: tuple[float, float]) -> LengthShape:
    if pairs:
        return LengthShape.TRACE
    return LengthShape.LOGNORMAL if any(variations) else LengthShape.FIXED


def changed_workload(
    old: Workload, changes: Mapping[str, Any], default: Workload = DEFAULT_WORKLOAD
) -> Workload:
    """Return the workload after a merge patch: absent fields stay, None restores the default.

    A change of shape keeps only the fields that the new shape has: a trace that becomes lognormal
    keeps its means, but not its pairs.

    Args:
        changes: fields of `workload_of`.
        default: the model's `default_workload`.

    Raises:
        SpecError: the values contradict each other or are out of range.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    shape = LengthShape(given["shape"]) if "shape" in given else None
    if shape is None:
        shape = _shape_after(old, changes, given)
    kept: dict[str, Any] = {}
    if shape is not LengthShape.TRACE:
        kept |= {"prompt_tokens": old.prompt_tokens, "output_tokens": old.output_tokens}
    elif old.pairs:
        kept |= {"pairs": old.pairs}
    if shape is LengthShape.LOGNORMAL:
        kept |= {
            "prompt_variation": old.prompt_variation,
            "output_variation": old.output_variation,
        }
    merged = {key: value for key, value in kept.items() if key not in changes} | given
    return workload_of(default, **{**merged, "shape": shape})


def _shape_after(
    old: Workload, changes: Mapping[str, Any], given: Mapping[str, Any]
) -> LengthShape:
    if given.get("pairs"):
        return LengthShape.TRACE
    variations = tuple(
        given.get(name, 0.0 if name in changes else getattr(old, name))
        for name in ("prompt_variation", "output_variation")
    )
    if "pairs" in changes or "shape" in changes or any(name in changes for name in _VARIATIONS):
        return LengthShape.LOGNORMAL if any(variations) else LengthShape.FIXED
    return old.shape


_VARIATIONS: Final = ("prompt_variation", "output_variation")


# --- pairs from files ------------------------------------------------------------------------


def read_pairs(path: Path) -> tuple[tuple[int, int], ...]:
    """Return prompt and output lengths of recorded requests, from CSV or JSON lines.

    CSV may have a header with the columns of this project (prompt_tokens, output_tokens), of the
    Azure LLM traces, or of BurstGPT; without a header the first two columns count. JSON lines are
    objects with the same names (or Mooncake's), or pairs as [512, 256]. Requests without a prompt
    or an output are left out. Of more than `MAX_TRACE_PAIRS` pairs, an evenly drawn part is taken.

    Raises:
        SpecError: the file cannot be read, or a line does not have two lengths.
    """
    try:
        if path.stat().st_size > MAX_PAIRS_FILE_BYTES:
            raise SpecError(
                f"{path} is larger than {format_bytes(MAX_PAIRS_FILE_BYTES)}.",
                hint="Give a part of the trace.",
            )
        with path.open(encoding="utf-8-sig", newline="") as stream:
            found = [pair for pair in _pairs(path, stream) if min(pair) > 0]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{path} cannot be read: {why}.", hint="Check the path.") from error
    if not found:
        raise SpecError(
            f"{path} holds no request with a prompt and an output.",
            hint="Give CSV with the columns prompt_tokens and output_tokens.",
        )
    return evenly_drawn(found)


def evenly_drawn(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """At most `MAX_TRACE_PAIRS` of the pairs, at equal distances in their order."""
    count = min(len(pairs), MAX_TRACE_PAIRS)
    return tuple(pairs[index * len(pairs) // count] for index in range(count))


def _pairs(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    rows = (
        _json_rows(lines) if path.suffix.lower() in {".jsonl", ".json"} else _csv_rows(path, lines)
    )
    for number, row in rows:
        try:
            prompt, output = (int(float(value)) for value in row)
            if max(prompt, output) > MAX_TOKENS:
                raise ValueError
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(
                f"{path}, line {number}: {row!r} is no prompt and output length.",
                hint=f"Each line holds two numbers of tokens up to {MAX_TOKENS}.",
            ) from error
        yield prompt, output


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    columns = (0, 1)
    for number, row in enumerate(csv.reader(lines), start=1):
        if not any(cell.strip() for cell in row):
            continue
        if number == 1 and not row[0].strip().replace(".", "", 1).isdigit():
            columns = _columns(path, [cell.strip().lower() for cell in row])
            continue
        yield number, tuple(row[column] for column in columns if column < len(row))


def _columns(path: Path, names: list[str]) -> tuple[int, int]:
    prompt = next((names.index(name) for name in PROMPT_COLUMNS if name in names), None)
    output = next((names.index(name) for name in OUTPUT_COLUMNS if name in names), None)
    if prompt is None or output is None:
        raise SpecError(
            f"{path} has no columns of prompt and output lengths among {', '.join(names[:20])}.",
            hint="Name them prompt_tokens and output_tokens.",
        )
    return prompt, output


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = line.strip()[:80]
        if isinstance(row, dict):
            named = {str(key).lower(): value for key, value in row.items()}
            prompt = next((named[name] for name in PROMPT_COLUMNS if name in named), None)
            output = next((named[name] for name in OUTPUT_COLUMNS if name in named), None)
            row = (prompt, output)
        yield number, row
