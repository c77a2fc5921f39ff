"""Writes what a reader of a profile should know beyond its figures. Pure."""

from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.numbers.grouping import by_key
from partitiond.core.profile.confirmed import FrontierMemory
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.units import format_bytes
from partitiond.profiler.search import SearchDone
from partitiond.profiler.sweep.trial import Trial

UNQUIET_SPREAD: Final = 0.15
"""Spread between windows of one batch that batch size and chance do not explain: the host had other
work. Chosen, not measured."""

BUSY_INSTRUMENT: Final = 0.25
"""Share of a core at which the load generator itself may be what was measured. Chosen."""


def sweep_notes(
    trials: Sequence[Trial], done: SearchDone | None, points: Sequence[OperatingPoint]
) -> list[str]:
    """Note what the sweep left out, and what may have disturbed it."""
    notes = []
    if done is not None and not done.complete:
        notes.append("the time limit came before every refinement was measured")
    once = [str(p.batch) for p in points if p.windows < 2 and not p.kv_limited]
    if once:
        notes.append(f"measured only once: batch {', '.join(once)}")
    mismatches = sum(t.mismatches for t in trials)
    if mismatches:
        notes.append(f"{mismatches} requests whose chunks and final usage disagree on tokens")
    short = sum(t.short for t in trials)
    if short:
        notes.append(
            f"{short} answers ended before their length: requests per second are more than said"
        )
    busiest = max((p.instrument_cpu for p in points), default=0.0)
    if busiest > BUSY_INSTRUMENT:
        notes.append(f"the load generator used {busiest:.0%} of a core")
    notes += saturation_note(trials)
    notes += telemetry_note(trials)
    spread = largest_spread(trials)
    if spread > UNQUIET_SPREAD:
        notes.append(
            f"windows of the same batch differ by up to {spread:.0%}: the host was not quiet"
        )
    return notes


def saturation_note(trials: Sequence[Trial]) -> list[str]:
    """Note the batches that the load generator limited, or may have limited."""
    bad = [trial for trial in trials if trial.saturated]
    if not bad:
        return []
    batches = ", ".join(map(str, sorted({trial.batch for trial in bad})))
    return [f"the load generator was saturated, so do not trust batch {batches}: "
            f"{bad[-1].saturated[0]}"]  # fmt: skip


def telemetry_note(trials: Sequence[Trial]) -> list[str]:
    """Note how many windows have less telemetry than others: a source that answered fell silent."""
    sources: list[set[str]] = [
        set(trial.telemetry.source.split("+")) if trial.telemetry is not None else set()
        for trial in trials
    ]
    known = {source for found in sources for source in found}
    less = [found for found in sources if found != known]
    if not less:
        return []
    names = ", ".join(sorted(name for name in known if any(name not in found for found in less)))
    return [f"in {len(less)} of {len(trials)} windows the device did not tell what it told in "
            f"others ({names})"]  # fmt: skip


def died_note(died: Collection[int], points: Sequence[OperatingPoint]) -> list[str]:
    """Note the points that the engine survived once and later did not."""
    batches = [str(point.batch) for point in points if point.batch in died]
    if not batches:
        return []
    return [f"the engine ended on a later visit of batch {', '.join(batches)}: "
            "no plan uses it, and it cannot be the knee"]  # fmt: skip


def frontier_note(found: FrontierMemory | None) -> list[str]:
    """Note what the confirming start showed about memory."""
    if found is None or found.confirmed:
        return []
    memory = format_bytes(found.kv_cache_bytes)
    if found.preemptions:
        return [
            f"batch {found.batch} was preempted {found.preemptions} times with {memory} of KV "
            f"cache, after {found.starts} starts: its frontier memory is not confirmed"
        ]
    return [f"the frontier memory of batch {found.batch} ({memory} of KV cache) is not confirmed"]


def largest_spread(trials: Sequence[Trial]) -> float:
    """Return the largest range of throughput among windows of one batch, relative to their mean."""
    by_batch = by_key((trial.batch, trial.output_tokens_per_s) for trial in trials)
    return max(
        ((max(r) - min(r)) * len(r) / sum(r) for r in by_batch.values() if sum(r) > 0),
        default=0.0,
    )
