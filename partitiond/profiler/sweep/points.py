"""Turns the trials of each batch into its operating point. Pure."""

import functools
import math
import operator
from collections.abc import Collection, Sequence

from loadgen import LatencySummary, Samples
from loadgen.results.statistics import summarise
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.footprint import BLOCK_TOKENS, kv_tokens
from partitiond.core.profile.points import Footprint, Latency, OperatingPoint, Telemetry
from partitiond.core.units import Bytes
from partitiond.ports import ProfileRequest
from partitiond.profiler.fit import point_footprint, resident_kv_bytes
from partitiond.profiler.search import combine
from partitiond.profiler.sweep.launch import ProfileLaunch, kv_bytes
from partitiond.profiler.sweep.sweep import HALF_WIDTH_SHARE
from partitiond.profiler.sweep.trial import Trial


def points_of(
    request: ProfileRequest,
    planned: ProfileLaunch,
    trials: Sequence[Trial],
    footprint: Footprint,
    *,
    died: Collection[int] = (),
) -> tuple[OperatingPoint, ...]:
    """Return one operating point for each batch, ascending.

    Points of batches in `died`, which the engine survived once and later did not, are marked as
    limited: nothing may be planned at them.
    """
    by_batch = by_key((trial.batch, trial) for trial in trials)
    resident = resident_kv_bytes(
        planned.architecture,
        request.device.kind,
        started_kv_bytes=footprint.kv_cache_bytes,
        largest_batch=max(by_batch, default=0),
        workload=request.model.spec.workload,
    )
    return tuple(
        _point(
            request,
            by_batch[batch],
            point_footprint(
                footprint.peak_bytes, resident, kv_bytes(request, planned.architecture, batch)
            ),
            died=batch in died,
        )
        for batch in sorted(by_batch)
    )


def _point(
    request: ProfileRequest, trials: Sequence[Trial], footprint_bytes: Bytes, *, died: bool
) -> OperatingPoint:
    """Combine all windows of one batch: throughput is their mean, latencies are pooled."""
    spec, batch = request.model.spec, trials[0].batch
    rate, half_width = combine(
        [t.output_tokens_per_s for t in trials], [t.half_width for t in trials]
    )
    req_per_s = rate / spec.workload.moments.o
    samples = functools.reduce(operator.add, (t.samples for t in trials), Samples())
    share = attainment(trials)
    device = combine_telemetry([(t.telemetry, t.telemetry_seconds) for t in trials])
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=rate,
        half_width=half_width,
        req_per_s=req_per_s,
        ttft=latency(summarise(samples.ttft)),
        tpot=latency(summarise(samples.tpot)),
        itl=latency(summarise(samples.itl)),
        e2el=latency(summarise(samples.e2el)),
        kv_tokens=kv_tokens(
            batch, spec.workload, spec.max_model_len, BLOCK_TOKENS[request.device.kind]
        ),
        footprint_bytes=footprint_bytes,
        running_mean=_mean([t.engine.running_mean for t in trials]) or 0.0,
        preemptions=sum(t.engine.preemptions for t in trials),
        kv_limited=died or any(t.kv_limited for t in trials),
        wide=half_width > HALF_WIDTH_SHARE[request.device.kind] * rate,
        windows=len(trials),
        instrument_cpu=max(t.instrument_cpu for t in trials),
        prompt_tokens_per_s=prompt_rate(trials),
        attainment=share,
        goodput_req_per_s=None if share is None else share * req_per_s,
        kv_usage_mean=_mean([t.engine.kv_usage_mean for t in trials]),
        kv_usage_max=max(_known([t.engine.kv_usage_max for t in trials]), default=None),
        telemetry=device,
        joules_per_output_token=joules_per_output_token(trials),
        idle_share=idle_share(device, request.device.kind, len(request.cores)),
    )


def latency(summary: LatencySummary | None) -> Latency:
    """Zeros if a latency does not exist: a one-token output has neither TPOT nor ITL."""
    if summary is None:
        return Latency(0.0, 0.0, 0.0, 0.0)
    return Latency(
        mean=summary.mean,
        p50=summary.p50,
        p95=summary.p95,
        p99=summary.p99,
        mean_interval=summary.mean_interval,
        p50_interval=summary.p50_interval,
        p95_interval=summary.p95_interval,
        p99_interval=summary.p99_interval,
    )


def prompt_rate(trials: Sequence[Trial]) -> float:
    """Return prompt tokens of requests whose first token came in the windows, per second of
    window.
    """
    seconds = math.fsum(t.window_seconds for t in trials)
    return sum(t.prompt_tokens for t in trials) / seconds if seconds > 0 else 0.0


def attainment(trials: Sequence[Trial]) -> float | None:
    """Return good requests over all that ended inside the windows; None without an SLO or a
    request.
    """
    ended = sum(t.ended for t in trials)
    return sum(t.good for t in trials) / ended if ended else None


def combine_telemetry(
    windows: Sequence[tuple[Telemetry | None, float]],
) -> Telemetry | None:
    """Return means over windows, weighted by length; energies are added. None without telemetry."""
    told = [(telemetry, seconds) for telemetry, seconds in windows if telemetry is not None]
    if not told:
        return None

    def mean(name: str) -> float | None:
        values = [(getattr(t, name), s) for t, s in told if getattr(t, name) is not None]
        seconds = math.fsum(s for _, s in values)
        return math.fsum(v * s for v, s in values) / seconds if seconds > 0 else None

    energies = _known([t.energy_joules for t, _ in told])
    return Telemetry(
        source=told[0][0].source,
        gpu_util=mean("gpu_util"),
        sm_activity=mean("sm_activity"),
        sm_occupancy=mean("sm_occupancy"),
        dram_activity=mean("dram_activity"),
        power_watts=mean("power_watts"),
        energy_joules=math.fsum(energies) if energies else None,
        cores_used=mean("cores_used"),
    )


def joules_per_output_token(trials: Sequence[Trial]) -> float | None:
    """Return energy over output tokens, in the windows that report energy; None if none of them
    does.
    """
    joules = tokens = 0.0
    for trial in trials:
        told = trial.telemetry
        if told is not None and told.energy_joules is not None and trial.telemetry_seconds > 0:
            joules += told.energy_joules
            tokens += trial.output_tokens_per_s * trial.telemetry_seconds
    return joules / tokens if tokens > 0 else None


def idle_share(device: Telemetry | None, kind: DeviceKind, cores: int) -> float | None:
    """Return the share of the windows in which the device computed nothing for the engine; None if
    unknown.

    On a GPU this is the share of time no kernel ran. On a CPU it is the part of the partition's
    cores that the engine's processes did not use: waiting for memory is use, as the core is taken.
    """
    if device is None:
        return None
    busy = device.gpu_util
    if kind is DeviceKind.CPU:
        busy = None if device.cores_used is None else device.cores_used / max(1, cores)
    return None if busy is None else min(1.0, max(0.0, 1.0 - busy))


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None
