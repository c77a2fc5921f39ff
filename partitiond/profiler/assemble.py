"""From finished trials to a profile: pure, so that a stored run can be assembled again."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Final

from loadgen import LatencySummary, Samples
from loadgen.statistics import summarise
from partitiond import __version__
from partitiond.core.footprint import BLOCK_TOKENS, kv_tokens
from partitiond.core.frontier import TOLERANCE, find_knee
from partitiond.core.hardware import DeviceKind, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.profile import (
    Footprint,
    Latency,
    LimitedBy,
    OperatingPoint,
    Profile,
    ProfileKind,
    Provenance,
)
from partitiond.ports import EngineLaunch, EngineReport, ProfileRequest
from partitiond.profiler.fit import (
    explain_footprint,
    fit_step_time,
    point_footprint,
    point_kv_bytes,
    resident_kv_bytes,
)
from partitiond.profiler.launch import ProfileLaunch
from partitiond.profiler.search import Done, best_rate, combine
from partitiond.profiler.trial import Trial

UNQUIET_SPREAD: Final = 0.15
"""Spread between windows of one batch that batch size and chance do not explain: the host had
other work."""

BUSY_INSTRUMENT: Final = 0.25
"""Share of a core from which the load generator may be what was measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Everything a profile is made of.

    Attributes:
        done: the search's last word; None where the engine died before.
        peak_bytes: peak memory of the engine through all trials.
        started_at: ISO 8601 UTC.
    """

    request: ProfileRequest
    planned: ProfileLaunch
    report: EngineReport
    trials: tuple[Trial, ...]
    done: Done | None
    peak_bytes: int
    notes: tuple[str, ...]
    started_at: str
    duration_seconds: float


def build_profile(measured: Measured) -> Profile:
    """The profile of a finished sweep."""
    request = measured.request
    spec, device = request.model.spec, request.device
    size = _size(request)
    footprint = explain_footprint(
        measured.planned.architecture,
        measured.planned.limits,
        device.kind,
        started_kv_bytes=measured.planned.launch.kv_cache_bytes,
        peak_bytes=measured.peak_bytes,
    )
    points = _points(measured, footprint)
    stamp = "".join(c for c in measured.started_at if c.isdigit())[:14]
    lengths = f"{spec.workload.prompt_tokens}-{spec.workload.output_tokens}"
    return Profile(
        id=f"{spec.name}-{device.hardware}-{size.key}-{lengths}-{stamp}",
        model=spec.name,
        kind=ProfileKind.MEASURED,
        hardware=device.hardware,
        size=size,
        workload=spec.workload,
        dtype=spec.engine.dtype,
        points=points,
        knee=find_knee(
            points,
            TOLERANCE,
            capped_by=_capped_by(measured),
            best_output_tokens_per_s=best_rate([t.visit for t in measured.trials]),
        ),
        footprint=footprint,
        kv_cache_tokens=measured.report.kv_cache_tokens,
        provenance=_provenance(measured, points),
    )


def _size(request: ProfileRequest) -> PartitionSize:
    if request.device.kind is DeviceKind.CPU:
        return PartitionSize(SharingMode.CORES, len(request.cores))
    return PartitionSize(SharingMode.WHOLE, 1, 100)


def _capped_by(measured: Measured) -> LimitedBy:
    """Why the batch grew no further, for a knee that was not reached."""
    if measured.done is None:  # the engine died of the batch after the last one
        return LimitedBy.MEMORY
    if measured.done.capped_by is LimitedBy.CAP and measured.planned.memory_limited:
        return LimitedBy.MEMORY
    return measured.done.capped_by


def _points(measured: Measured, footprint: Footprint) -> tuple[OperatingPoint, ...]:
    by_batch: dict[int, list[Trial]] = {}
    for trial in measured.trials:
        by_batch.setdefault(trial.batch, []).append(trial)
    return tuple(_point(measured, footprint, by_batch[batch]) for batch in sorted(by_batch))


def _point(measured: Measured, footprint: Footprint, trials: Sequence[Trial]) -> OperatingPoint:
    """All windows of one batch: throughput is their mean, latencies are pooled."""
    spec, batch = measured.request.model.spec, trials[0].batch
    block = BLOCK_TOKENS[measured.request.device.kind]
    needed = point_kv_bytes(
        measured.planned.architecture, batch, spec.workload, spec.max_model_len, block
    )
    resident = resident_kv_bytes(
        measured.planned.architecture,
        measured.request.device.kind,
        started_kv_bytes=footprint.kv_cache_bytes,
        largest_batch=max(t.batch for t in measured.trials),
        workload=spec.workload,
    )
    rate, half_width = combine(
        [t.output_tokens_per_s for t in trials], [t.half_width for t in trials]
    )
    samples = functools.reduce(operator.add, (t.samples for t in trials), Samples())
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=rate,
        half_width=half_width,
        req_per_s=rate / spec.workload.output_tokens,
        ttft=_latency(summarise(samples.ttft)),
        tpot=_latency(summarise(samples.tpot)),
        itl=_latency(summarise(samples.itl)),
        e2el=_latency(summarise(samples.e2el)),
        kv_tokens=kv_tokens(batch, spec.workload, spec.max_model_len, block),
        footprint_bytes=point_footprint(footprint.peak_bytes, resident, needed),
        running_mean=sum(t.engine.running_mean for t in trials) / len(trials),
        preemptions=sum(t.engine.preemptions for t in trials),
        kv_limited=any(t.kv_limited for t in trials),
        wide=any(t.wide for t in trials),
        windows=len(trials),
        instrument_cpu=max(t.instrument_cpu for t in trials),
    )


def _latency(summary: LatencySummary | None) -> Latency:
    """Zeros where a latency does not exist: a one-token output has neither TPOT nor ITL."""
    if summary is None:
        return Latency(0.0, 0.0, 0.0, 0.0)
    return Latency(summary.mean, summary.p50, summary.p95, summary.p99)


def _provenance(measured: Measured, points: Sequence[OperatingPoint]) -> Provenance:
    request = measured.request
    return Provenance(
        engine=measured.planned.launch.engine_kind,
        engine_version=measured.report.version,
        engine_args=engine_args(measured.planned.launch),
        weights="dummy" if request.model.dummy_weights else "real",
        model_revision=request.model.revision,
        hardware=request.device.hardware,
        device_name=request.device.name,
        driver=request.device.driver,
        host_cores=request.cores,
        seed=request.seed,
        started_at=measured.started_at,
        duration_seconds=measured.duration_seconds,
        partitiond_version=__version__,
        notes=_notes(measured, points),
    )


def engine_args(launch: EngineLaunch) -> tuple[str, ...]:
    """What decides the engine's speed and memory, in the engine's own flags."""
    return (
        f"--max-num-seqs={launch.max_num_seqs}",
        f"--max-num-batched-tokens={launch.max_num_batched_tokens}",
        f"--max-model-len={launch.max_model_len}",
        f"--kv-cache-memory-bytes={launch.kv_cache_bytes}",
        f"--dtype={launch.dtype}",
        *(() if launch.prefix_caching else ("--no-enable-prefix-caching",)),
        *launch.extra_args,
    )


def _notes(measured: Measured, points: Sequence[OperatingPoint]) -> tuple[str, ...]:
    notes = list(measured.notes)
    if measured.done is not None and not measured.done.complete:
        notes.append("the time limit came before every refinement was measured")
    once = [str(p.batch) for p in points if p.windows < 2 and not p.kv_limited]
    if once:
        notes.append(f"measured only once, for lack of time: batch {', '.join(once)}")
    mismatches = sum(t.mismatches for t in measured.trials)
    if mismatches:
        notes.append(f"{mismatches} requests whose chunks and final usage disagree on tokens")
    busiest = max(p.instrument_cpu for p in points)
    if busiest > BUSY_INSTRUMENT:
        notes.append(f"the load generator used {busiest:.0%} of a core")
    spread = _largest_spread(measured.trials)
    if spread > UNQUIET_SPREAD:
        notes.append(
            f"windows of the same batch differ by up to {spread:.0%}: the host was not quiet"
        )
    step = fit_step_time(points)
    if step is not None:
        notes.append(
            f"step time {step.base_seconds * 1e3:.3g} ms + {step.per_sequence_seconds * 1e3:.3g} "
            f"ms per sequence, off by {step.residual_share:.1%} in the mean"
        )
    return tuple(notes)


def _largest_spread(trials: Sequence[Trial]) -> float:
    """Largest range of throughput among windows of one batch, relative to their mean."""
    by_batch: dict[int, list[float]] = {}
    for trial in trials:
        by_batch.setdefault(trial.batch, []).append(trial.output_tokens_per_s)
    return max(
        ((max(r) - min(r)) * len(r) / sum(r) for r in by_batch.values() if sum(r) > 0),
        default=0.0,
    )
