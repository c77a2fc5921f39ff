"""Reads workloads as people write them in requests, fleet files and options, or trace files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadgen.errors import InputError as TraceError
from loadgen.load.traces import read_trace
from partitiond.core.errors import SpecError
from partitiond.core.model.spec import DEFAULT_WORKLOAD
from partitiond.core.model.workload import MAX_TRACE_PAIRS, LengthShape, Workload


def workload_of(
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
    follow from its pairs.

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
        DEFAULT_WORKLOAD.prompt_tokens if prompt_tokens is None else prompt_tokens,
        DEFAULT_WORKLOAD.output_tokens if output_tokens is None else output_tokens,
        shape,
        *variations,
        pairs=given_pairs,
    )


def _shape(pairs: tuple[tuple[int, int], ...], variations: tuple[float, float]) -> LengthShape:
    if pairs:
        return LengthShape.TRACE
    return LengthShape.LOGNORMAL if any(variations) else LengthShape.FIXED


def changed_workload(old: Workload, changes: Mapping[str, Any]) -> Workload:
    """Return the workload after a merge patch: absent fields stay, None restores the default.

    A change of shape keeps only the fields that the new shape has: a trace that becomes lognormal
    keeps its means, but not its pairs.

    Args:
        changes: fields of `workload_of`.

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
    return workload_of(**{**merged, "shape": shape})


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


def read_pairs(path: Path) -> tuple[tuple[int, int], ...]:
    """Return prompt and output lengths of recorded requests, as `loadgen` reads them.

    Requests without a prompt or an output are left out. Of more than `MAX_TRACE_PAIRS` pairs, an
    evenly drawn part is taken.

    Raises:
        SpecError: the file cannot be read, or a line does not have two lengths.
    """
    try:
        pairs = read_trace(path).pairs
    except TraceError as error:
        raise SpecError(
            str(error), hint="Give CSV with the columns prompt_tokens and output_tokens."
        ) from error
    return evenly_drawn(pairs)


def evenly_drawn(pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """At most `MAX_TRACE_PAIRS` of the pairs, at equal distances in their order."""
    count = min(len(pairs), MAX_TRACE_PAIRS)
    return tuple(pairs[index * len(pairs) // count] for index in range(count))
