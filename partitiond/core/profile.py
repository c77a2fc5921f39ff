"""A measured (or estimated) profile: operating points on one hardware and partition size."""

import dataclasses
import enum
from typing import Final

from partitiond.core.partition import PartitionSize
from partitiond.core.spec import Slo, Workload
from partitiond.core.units import Bytes

SCHEMA_VERSION: Final = 1


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


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one latency over the requests of a window, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float


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


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """Operating points of one model on one hardware and partition size, for one workload."""

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
    """KV tokens of the started engine."""
    provenance: Provenance
    capacity_req_per_s: float | None = None
    """Confirmed open-loop rate at the operating point; None until confirmed (then 0.8 X / E[O])."""
    schema_version: int = SCHEMA_VERSION

    def point(self, batch: int) -> OperatingPoint | None:
        """The operating point measured at exactly this batch."""
        return next((point for point in self.points if point.batch == batch), None)


def operating_point(profile: Profile, slo: Slo | None) -> OperatingPoint | None:
    """The default operating point: the knee; with an SLO, the largest batch <= knee that holds it.

    None when no measured batch up to the knee holds the SLO's bounds at p95.
    """
    limit = profile.knee.batch if profile.knee.batch is not None else profile.knee.largest_batch
    usable = [p for p in profile.points if p.batch <= limit and not p.kv_limited]
    if slo is not None:
        usable = [
            p for p in usable if p.ttft.p95 <= slo.ttft_seconds and p.tpot.p95 <= slo.tpot_seconds
        ]
    return max(usable, key=lambda p: p.batch, default=None)


CAPACITY_SHARE_UNCONFIRMED: Final = 0.8
"""Poisson arrivals queue before a closed loop's throughput is reached; 0.8 X / E[O] until an
open-loop trial confirms the true rate."""


def capacity_req_per_s(profile: Profile, point: OperatingPoint) -> float:
    """Requests/s one replica is planned to take at `point`, before margins."""
    if profile.capacity_req_per_s is not None:
        return profile.capacity_req_per_s
    return CAPACITY_SHARE_UNCONFIRMED * point.req_per_s
