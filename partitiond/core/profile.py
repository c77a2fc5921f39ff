"""A measured (or estimated) profile: operating points on one hardware and partition size."""

import dataclasses
import enum
import math
from typing import Final

from partitiond.core.partition import PartitionSize
from partitiond.core.spec import Slo
from partitiond.core.units import Bytes
from partitiond.core.workload import Workload

SCHEMA_VERSION: Final = 2
"""2 adds intervals, telemetry, fits, sharing and variants; version 1 reads with them empty."""


class ProfileKind(enum.StrEnum):
    """How the figures came to be. The planner's margins follow from it."""

    MEASURED = "measured"
    TRANSFERRED = "transferred"
    ESTIMATED = "estimated"


RATE_MARGIN: Final[dict[ProfileKind, float]] = {
    ProfileKind.MEASURED: 0.05,
    ProfileKind.TRANSFERRED: 0.15,
    ProfileKind.ESTIMATED: 0.30,
}
MEMORY_MARGIN: Final[dict[ProfileKind, float]] = {
    ProfileKind.MEASURED: 0.03,
    ProfileKind.TRANSFERRED: 0.05,
    ProfileKind.ESTIMATED: 0.10,
}


class LimitedBy(enum.StrEnum):
    """Why a sweep ended before throughput stopped growing."""

    MEMORY = "memory"
    CAP = "cap"
    TIME = "time"


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
        source: who said it, as "nvml-gpm", "dcgm", "procfs+rapl".
        gpu_util: share of time any kernel ran (NVML utilisation), 0..1.
        sm_activity: share of time an SM had a warp, averaged over SMs, 0..1.
        sm_occupancy: resident warps over the maximum, 0..1.
        dram_activity: share of cycles the device memory moved data, 0..1.
        power_watts: mean power of the device, or of the CPU packages.
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
        kv_limited: the KV cache limited it; it cannot be the knee.
        wide: the window closed at its time limit with a wider interval than wanted.
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


@dataclasses.dataclass(frozen=True, slots=True)
class StepTime:
    """The engine's step time t = a + b (tokens computed) + c (sequences) + d (KV tokens read).

    Attributes:
        base_seconds: a.
        per_token_seconds: b, per token computed (prompt tokens and one for each decode).
        per_sequence_seconds: c, per sequence in the step.
        per_kv_token_seconds: d, per KV token read by attention.
        residual_share: root mean square of the relative error over what it was fitted to.
        points: operating points it was fitted to.
        workloads: their different workloads. With one, b, c and d grow together and only their
            sum is known: it is then kept in c alone, and the fit predicts batches, not lengths.
    """

    base_seconds: float
    per_token_seconds: float
    per_sequence_seconds: float
    per_kv_token_seconds: float
    residual_share: float
    points: int
    workloads: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class FrontierMemory:
    """The least footprint at which throughput at the knee stays, and the start that confirmed it.

    Attributes:
        batch: the knee it is for (or the largest batch).
        kv_cache_bytes: KV cache of the confirming start.
        footprint_bytes: peak memory of that engine, through its trial.
        output_tokens_per_s, half_width: throughput there; None where it was not measured.
        preemptions: requests preempted in the trial.
        confirmed: throughput stayed within the tolerance and nothing was preempted.
        starts: engine starts it took to find.
    """

    batch: int
    kv_cache_bytes: Bytes
    footprint_bytes: Bytes
    output_tokens_per_s: float | None
    half_width: float | None
    preemptions: int
    confirmed: bool
    starts: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class CapacityTrial:
    """One open-loop trial at the operating point, limited to its batch.

    Attributes:
        batch: limit in sequences.
        req_per_s: Poisson rate that was offered.
        attainment: share of arrivals within the SLO (without one: that ended without error).
        seconds: window.
        held: the SLO held at its quantile.
    """

    batch: int
    req_per_s: float
    attainment: float
    seconds: float
    held: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationRun:
    """Replicas of one model side by side in the same total memory, under simultaneous load.

    Attributes:
        replicas: how many.
        mode: how they shared the device (a SharingMode's value).
        cores_each: host cores of each replica; on a CPU device its partition.
        batch_each: requests in flight at each.
        output_tokens_per_s: of each replica, in the common window.
        half_width: 95 % half-width of their sum.
        tpot_p95_seconds, ttft_p95_seconds: the worst replica's.
        windows: windows behind it, alternating with those of the other runs.
        telemetry: of the device through the windows.
    """

    replicas: int
    mode: str
    cores_each: int
    batch_each: int
    output_tokens_per_s: tuple[float, ...]
    half_width: float
    tpot_p95_seconds: float
    ttft_p95_seconds: float
    windows: int
    telemetry: Telemetry | None = None

    @property
    def total_output_tokens_per_s(self) -> float:
        """Sum over the replicas."""
        return math.fsum(self.output_tokens_per_s)


@dataclasses.dataclass(frozen=True, slots=True)
class PairRun:
    """Two models side by side, each at its operating point: predicted from singles, then measured.

    Each tuple holds the first model's figure, then the other's.

    Attributes:
        models: their names.
        mode: how they shared the device (a SharingMode's value).
        cores_each: cores of each.
        batches: requests in flight at each.
        alone_output_tokens_per_s: of each alone, in windows that alternated with the pair's.
        predicted_output_tokens_per_s, predicted_tpot_p95_seconds: alone, and sigma.
        measured_output_tokens_per_s, measured_tpot_p95_seconds: side by side, common windows.
        half_widths: 95 % half-widths of the measured rates, in tokens/s.
        windows: windows behind each figure.
    """

    models: tuple[str, str]
    mode: str
    cores_each: tuple[int, int]
    batches: tuple[int, int]
    alone_output_tokens_per_s: tuple[float, float]
    predicted_output_tokens_per_s: tuple[float, float]
    measured_output_tokens_per_s: tuple[float, float]
    half_widths: tuple[float, float]
    predicted_tpot_p95_seconds: tuple[float, float]
    measured_tpot_p95_seconds: tuple[float, float]
    windows: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sharing:
    """What replication runs say about sharing this kind of device in one mode.

    Attributes:
        mode: a SharingMode's value.
        kappa: loss per further replica.
        busy: u, share of the shared resource one replica takes alone, 0..1.
        runs: what they were fitted to; empty where only pairs were measured: then kappa and busy
            are the mode's defaults.
        pairs: this model beside others, predicted and measured.
    """

    mode: str
    kappa: float
    busy: float
    runs: tuple[ReplicationRun, ...]
    pairs: tuple[PairRun, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class PaperMode:
    """The paper's figures: all requests at once, throughput by the makespan.

    Attributes:
        requests: sent at once (the paper's 500, or fewer on a slow device: it says how many).
        batch: the engine's limit in sequences.
        req_per_s: requests / makespan.
        output_tokens_per_s: output tokens / makespan.
        mean_e2el_seconds: mean end-to-end latency, waiting included.
    """

    requests: int
    batch: int
    req_per_s: float
    output_tokens_per_s: float
    mean_e2el_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """Where a transferred profile comes from, and how far it may be off.

    Attributes:
        source_ids: measured profiles it was predicted from.
        method: what was scaled, in words.
        error_share: half-width of the error band of throughput, as a share.
    """

    source_ids: tuple[str, ...]
    method: str
    error_share: float


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """How a profile came to be: enough to reproduce it and to know when it is stale."""

    engine: str
    engine_version: str
    engine_args: tuple[str, ...]
    weights: str
    model_revision: str | None
    hardware: str
    device_name: str
    driver: str
    host_cores: tuple[int, ...]
    seed: int
    started_at: str
    """ISO 8601, UTC."""
    duration_seconds: float
    partitiond_version: str
    notes: tuple[str, ...] = ()
    command: str = ""
    """What reproduces it, as `partitiond profile opt-125m --cores 1`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """Operating points of one model on one hardware and partition size, for one workload.

    Attributes:
        kv_cache_tokens: KV tokens of the started engine.
        capacity_req_per_s: confirmed open-loop rate at the operating point; None until confirmed
            (then 0.8 X / E[O]).
        variant: which form of the model; empty for the model itself.
        max_num_batched_tokens: tokens of one engine step; None in files of version 1.
        kv_cache_dtype: precision of the KV cache; "auto" is that of the weights.
        structured_output: answers were constrained to a JSON schema.
        frontier_memory: the least memory that keeps the knee's throughput.
        step_time: fitted to the points.
        capacity_trials: the open-loop trials behind `capacity_req_per_s`, in order.
        sharing: what replication runs said, by sharing mode.
        transfer: set exactly for transferred profiles.
        paper_mode: all requests at once, reported apart.
        slo: what `attainment` and `goodput_req_per_s` of the points were counted against.
    """

    id: str
    model: str
    kind: ProfileKind
    hardware: str
    size: PartitionSize
    workload: Workload
    dtype: str
    points: tuple[OperatingPoint, ...]
    knee: Knee
    footprint: Footprint
    kv_cache_tokens: int
    provenance: Provenance
    capacity_req_per_s: float | None = None
    schema_version: int = SCHEMA_VERSION
    variant: str = ""
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str = "auto"
    structured_output: bool = False
    frontier_memory: FrontierMemory | None = None
    step_time: StepTime | None = None
    capacity_trials: tuple[CapacityTrial, ...] = ()
    sharing: tuple[Sharing, ...] = ()
    transfer: Transfer | None = None
    paper_mode: PaperMode | None = None
    slo: Slo | None = None

    def point(self, batch: int) -> OperatingPoint | None:
        """The operating point measured at exactly this batch."""
        return next((point for point in self.points if point.batch == batch), None)


def holds_slo(point: OperatingPoint, slo: Slo) -> bool:
    """Whether a point's TTFT and TPOT stay within the bounds, at p95, or p99 for a stricter SLO."""
    if slo.quantile > 0.95:
        ttft, tpot = point.ttft.p99, point.tpot.p99
    else:
        ttft, tpot = point.ttft.p95, point.tpot.p95
    return ttft <= slo.ttft_seconds and tpot <= slo.tpot_seconds


def operating_point(profile: Profile, slo: Slo | None) -> OperatingPoint | None:
    """The default operating point: the knee; with an SLO, the largest batch <= knee that holds it.

    None when no measured batch up to the knee holds the SLO.
    """
    limit = profile.knee.batch if profile.knee.batch is not None else profile.knee.largest_batch
    usable = [p for p in profile.points if p.batch <= limit and not p.kv_limited]
    if slo is not None:
        usable = [p for p in usable if holds_slo(p, slo)]
    return max(usable, key=lambda p: p.batch, default=None)


CAPACITY_SHARE_UNCONFIRMED: Final = 0.8
"""Poisson arrivals queue before a closed loop's throughput is reached; 0.8 X / E[O] until an
open-loop trial confirms the true rate."""
UNHELD_SHARE: Final = 0.75
"""Of a rate that was not held: the next one a search would have tried."""


def capacity_req_per_s(profile: Profile, point: OperatingPoint) -> float:
    """Requests/s one replica is planned to take at `point`, before margins.

    What open-loop trials confirmed holds for the batch they were made at. Where they found no
    rate that is held, the lowest one that failed bounds the capacity.
    """
    tried = [trial for trial in profile.capacity_trials if trial.batch == point.batch]
    if profile.capacity_req_per_s is not None and (tried or not profile.capacity_trials):
        return profile.capacity_req_per_s
    failed = [UNHELD_SHARE * trial.req_per_s for trial in tried if not trial.held]
    return min([CAPACITY_SHARE_UNCONFIRMED * point.req_per_s, *failed])
