"""Defines operating points: what was observed of one batch, one engine and one sweep."""

import dataclasses
import enum

from partitiond.core.units import ZERO_BYTES, Bytes

Interval = tuple[float, float]
"""Low and high end of a 95 % interval."""


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one latency over the requests of a window, in seconds.

    Attributes:
        mean_interval, p50_interval, p95_interval, p99_interval: 95 % intervals; None where
            estimated, and where there are too few requests to tell.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    mean_interval: Interval | None = None
    p50_interval: Interval | None = None
    p95_interval: Interval | None = None
    p99_interval: Interval | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Telemetry:
    """What the device and the host said during a window, as means. None is "not exposed here".

    Attributes:
        source: who said it, as "nvml-gpm", "procfs".
        gpu_util: share of time any kernel ran (NVML utilisation), 0..1.
        sm_activity: share of time an SM had a warp, averaged over SMs, 0..1.
        sm_occupancy: resident warps over the maximum, 0..1.
        dram_activity: share of cycles the device memory moved data, 0..1.
        power_watts: mean power of the GPU.
        energy_joules: energy of the window, by a counter or power x time.
        cores_used: CPU time of the engine's processes / window.
    """

    source: str
    gpu_util: float | None = None
    sm_activity: float | None = None
    sm_occupancy: float | None = None
    dram_activity: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    cores_used: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One batch size in steady state.

    Attributes:
        batch: requests in flight.
        output_tokens_per_s: X(b), tokens received inside the windows / window seconds.
        half_width: 95 % half-width of X by batch means, in tokens/s (0 where estimated).
        req_per_s: X / E[O].
        ttft, tpot, itl, e2el: latencies in seconds.
        kv_tokens: KV tokens this batch needs (definitions: KV_tokens(b)).
        footprint_bytes: memory of the engine at this point.
        running_mean: mean number of running requests the engine reports.
        preemptions: preempted requests during the windows.
        kv_limited: the KV cache limited it, or the engine ended at it on a later visit (the notes
            say which); it cannot be the knee and is not planned with.
        wide: the half-width is more than the device's default share of X (2 % on a GPU, 5 % on a
            CPU), over all its windows.
        windows: windows behind it.
        instrument_cpu: share of one core the load generator used.
        prompt_tokens_per_s: prompt tokens of the requests whose first token came in the window.
        attainment: share of the window's requests that hold the SLO; None without an SLO.
        goodput_req_per_s: req_per_s x attainment; None without an SLO.
        kv_usage_mean, kv_usage_max: share of the engine's KV blocks in use, 0..1; None unknown.
        telemetry: what the device said; None where nothing was exposed.
        joules_per_output_token: energy by output tokens; None where energy is not exposed.
        idle_share: share of the window in which the engine computed nothing; None unknown.
    """

    batch: int
    output_tokens_per_s: float
    half_width: float
    req_per_s: float
    ttft: Latency
    tpot: Latency
    itl: Latency
    e2el: Latency
    kv_tokens: int
    footprint_bytes: Bytes
    running_mean: float = 0.0
    preemptions: int = 0
    kv_limited: bool = False
    wide: bool = False
    windows: int = 0
    instrument_cpu: float = 0.0
    prompt_tokens_per_s: float = 0.0
    attainment: float | None = None
    goodput_req_per_s: float | None = None
    kv_usage_mean: float | None = None
    kv_usage_max: float | None = None
    telemetry: Telemetry | None = None
    joules_per_output_token: float | None = None
    idle_share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one engine, by terms, in bytes. Terms explain `peak_bytes`; the rest is kept.

    Attributes:
        weights_bytes: W, weights as loaded.
        kv_cache_bytes: K, KV blocks x block bytes, from the started engine.
        activation_bytes: A, peak activations.
        graph_bytes: G, CUDA graph pools (0 on a CPU).
        context_bytes: C, context and library workspaces.
        unexplained_bytes: peak minus the terms (may be negative: terms are models, too).
        peak_bytes: the truth: peak rise of device memory, on a CPU peak proportional set size.
    """

    weights_bytes: Bytes
    kv_cache_bytes: Bytes
    activation_bytes: Bytes
    graph_bytes: Bytes
    context_bytes: Bytes
    unexplained_bytes: int
    peak_bytes: Bytes


@dataclasses.dataclass(frozen=True, slots=True)
class SleepingFootprint:
    """What an engine holds while it sleeps (`core.performance.footprint.sleeping_footprint`).

    Attributes:
        level_1_bytes, level_2_bytes: memory of its device, by level of sleep.
        host_bytes: host memory beyond what its processes take anyway, at level 1 (the weights of
            an engine on a GPU). At level 2 there is none.
    """

    level_1_bytes: Bytes
    level_2_bytes: Bytes
    host_bytes: Bytes = ZERO_BYTES


class LimitedBy(enum.StrEnum):
    """Why a sweep ended before throughput stopped growing."""

    MEMORY = "memory"
    CAP = "cap"
    TIME = "time"


@dataclasses.dataclass(frozen=True, slots=True)
class Knee:
    """The smallest batch at which the frontier throughput is reached within `tolerance`.

    Attributes:
        batch: the knee, or None where throughput still grew (then `limited_by` says why it
            ended and `largest_batch` is what the planner uses).
        low, high: range of the knee from the intervals.
        tolerance: e of the definition, 0.05.
        best_output_tokens_per_s: X*.
        limited_by: set exactly when batch is None.
        largest_batch: largest batch that was not KV-limited.
    """

    batch: int | None
    low: int | None
    high: int | None
    tolerance: float
    best_output_tokens_per_s: float
    limited_by: LimitedBy | None
    largest_batch: int
