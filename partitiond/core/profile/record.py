"""Defines a profile: measured, transferred or estimated, on one hardware and partition size."""

import dataclasses
import enum
from typing import Final

from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory, PaperMode, StepTime
from partitiond.core.profile.points import Footprint, Knee, OperatingPoint
from partitiond.core.profile.sharing import Sharing

SCHEMA_VERSION: Final = 2
"""2 adds intervals, telemetry, fits, sharing and variants; version 1 is read with them empty."""


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


ESTIMATE_ERROR: Final = 0.42
"""Median error of estimated rates beside the shipped profiles, with figures assumed of the
hardware: `python -m bench.profiler.factor_fit`."""


MEMORY_MARGIN: Final[dict[ProfileKind, float]] = {
    ProfileKind.MEASURED: 0.03,
    ProfileKind.TRANSFERRED: 0.05,
    ProfileKind.ESTIMATED: 0.10,
}


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
    """What measured it outside of a daemon, as the GPU check; empty of a daemon's job."""
    source: str = ""
    """Kind and reference of the model's source, as `hub facebook/opt-125m`; empty if not known."""


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
        structured_output: answers were constrained to a JSON schema, as earlier releases could.
        frontier_memory: the least memory that keeps the knee's throughput.
        step_time: fitted to the points by releases before; no longer made, and not used.
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
        """Return the operating point measured at exactly this batch."""
        return next((point for point in self.points if point.batch == batch), None)


def holds_slo(point: OperatingPoint, slo: Slo, counted: Slo | None = None) -> bool:
    """Return whether the share of requests within both bounds reaches the SLO's quantile.

    The counted share is used if the point was measured under the same bounds. Otherwise (estimates,
    other bounds, a point whose latencies were changed) the percentiles of TTFT and of TPOT stand
    in: p95, or p99 for a stricter SLO. They say less: different requests may miss each bound.

    Args:
        point: the operating point.
        slo: the SLO to be held.
        counted: the SLO that the point's attainment was counted against (`Profile.slo`); None if
            its percentiles are to decide.
    """
    if counted is not None and point.attainment is not None and _same_bounds(counted, slo):
        return point.attainment >= slo.quantile
    if slo.quantile > 0.95:
        ttft, tpot = point.ttft.p99, point.tpot.p99
    else:
        ttft, tpot = point.ttft.p95, point.tpot.p95
    return ttft <= slo.ttft_seconds and tpot <= slo.tpot_seconds


def _same_bounds(one: Slo, other: Slo) -> bool:
    """Return whether both count requests alike; the quantile has no part in that."""
    return (one.ttft_seconds, one.tpot_seconds) == (other.ttft_seconds, other.tpot_seconds)


def held_points(profile: Profile, slo: Slo | None) -> tuple[OperatingPoint, ...]:
    """Return the points up to the knee that hold the SLO when alone."""
    limit = profile.knee.batch if profile.knee.batch is not None else profile.knee.largest_batch
    usable = (p for p in profile.points if p.batch <= limit and not p.kv_limited)
    return tuple(p for p in usable if slo is None or holds_slo(p, slo, profile.slo))


def operating_point(profile: Profile, slo: Slo | None) -> OperatingPoint | None:
    """Return the default operating point: the largest of `held_points`; None if none holds."""
    return max(held_points(profile, slo), key=lambda p: p.batch, default=None)


CAPACITY_SHARE_UNCONFIRMED: Final = 0.8
"""Poisson arrivals queue before a closed loop's throughput is reached, so capacity is taken as
0.8 X / E[O] until an open-loop trial confirms the true rate. Assumed."""


UNHELD_SHARE: Final = 0.75
"""Share of a rate that was not held: the next rate that a search would have tried. Chosen."""


def rate_margin(profile: Profile, kind: ProfileKind) -> float:
    """Return the share of a rate that planning leaves off.

    The error that a transfer states for itself counts if it is larger, up to the margin of an
    estimate: a tenth of the SMs is further from a measured whole GPU than half of them is.

    Args:
        kind: the kind whose margins count; for a stale profile not its own.
    """
    least = RATE_MARGIN[kind]
    if kind is not ProfileKind.TRANSFERRED or profile.transfer is None:
        return least
    return min(max(least, profile.transfer.error_share), RATE_MARGIN[ProfileKind.ESTIMATED])


def capacity_req_per_s(profile: Profile, point: OperatingPoint) -> float:
    """Return the requests/s one replica is planned to take at `point`, before margins.

    A rate that open-loop trials confirmed holds for the batch of these trials. If they found no
    rate that is held, the lowest rate that failed bounds the capacity.
    """
    tried = [trial for trial in profile.capacity_trials if trial.batch == point.batch]
    if profile.capacity_req_per_s is not None and (tried or not profile.capacity_trials):
        return profile.capacity_req_per_s
    failed = [UNHELD_SHARE * trial.req_per_s for trial in tried if not trial.held]
    return min([CAPACITY_SHARE_UNCONFIRMED * point.req_per_s, *failed])
