"""Defines the overview that the dashboard and `GET /overview` show."""

import dataclasses
from typing import Final

from partitiond.core.demand.traffic import ModelTraffic, ReplicaTraffic
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import Partition
from partitiond.core.profile.jobs import Job
from partitiond.core.replica.convergence import NOTHING_APPLIED, Convergence
from partitiond.core.replica.obstacles import Obstacle

WINDOW_SECONDS: Final = 30.0
"""Window of an overview's rates and means if the caller asks for no other."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One operating point of a model's best profile.

    Attributes:
        interval: half of the 95 % interval of the throughput, in tokens/s.
    """

    batch: int
    output_tokens_per_s: float
    footprint_bytes: int
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    interval: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class FrontierView:
    """The frontier of one model on one hardware, as measured or estimated.

    Attributes:
        kind: measured, transferred or estimated.
        size: partition size in words.
        knee_batch: of the knee; None where there is none.
        planned_batch: at which its replicas run; None where it is not planned.
        working_batch: mean sequences in flight of a serving replica now; None unknown.
    """

    profile_id: str
    kind: str
    hardware: str
    size: str
    points: tuple[FrontierPoint, ...]
    knee_batch: int | None
    planned_batch: int | None
    working_batch: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceOverview:
    """One device and how full it is.

    Attributes:
        held_bytes: what the engines that run hold, by their partitions: the use now.
        coming_bytes: what engines that are yet to start will hold. During a change some of it is
            room that others hold still, so the two may add up to more than the device.
        room_bytes: what engines may hold.
        used_bytes: memory in use as the driver says; None unknown.
        watts, busy_share, celsius: as the driver says; None where it does not.
        cordoned: why nothing is placed there; empty where something may be.
    """

    device: Device
    held_bytes: int
    coming_bytes: int
    room_bytes: int
    used_bytes: int | None = None
    watts: float | None = None
    busy_share: float | None = None
    celsius: float | None = None
    cordoned: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaOverview:
    """One engine: what was planned, and what it does.

    Attributes:
        replica_id, engine, held_bytes, coming_bytes, host: as of `ReplicaView`.
        memory_bytes: of its partition.
        compute_share: of its device's compute, 0..1, by partition (SM percent, slices, cores); a
            memory share has an equal part of the whole.
        limit: sequences at once.
        planned_output_tokens_per_s, planned_req_per_s, planned_ttft_p95_seconds,
            planned_tpot_p95_seconds: the plan's prediction, sharing included.
        measured: over the window; None where nothing is known.
        drift: in one sentence where measured and predicted disagree beyond their confidence.
    """

    replica_id: str
    engine: str
    model: str
    device_id: str
    partition: Partition
    state: str
    memory_bytes: int
    compute_share: float
    limit: int
    in_flight: int | None
    planned_output_tokens_per_s: float
    planned_req_per_s: float
    planned_ttft_p95_seconds: float
    planned_tpot_p95_seconds: float
    held_bytes: int = 0
    coming_bytes: int = 0
    measured: ReplicaTraffic | None = None
    drift: str = ""
    host: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelOverview:
    """One model: what is asked of it and what it gives.

    Attributes:
        demand_req_per_s: what it is planned for; None for as much as there is.
        forecast_req_per_s: what autoscaling expects; None where it does not look.
        capacity_req_per_s: of its serving replicas, by plan.
        traffic: over the window; None where nothing is known.
        frontiers: of its best profiles, by hardware.
        note: what the chain waits for.
        obstacle: what keeps it from running; None for nothing that is known.
        joules_per_s: draw of its replicas by plan, in watts; None unknown.
        sleep_mode: whether it can be put to sleep.
    """

    name: str
    availability: str
    replicas_serving: int
    replicas_planned: int
    demand_req_per_s: float | None
    forecast_req_per_s: float | None
    capacity_req_per_s: float
    traffic: ModelTraffic | None
    frontiers: tuple[FrontierView, ...]
    note: str = ""
    joules_per_s: float | None = None
    obstacle: Obstacle | None = None
    sleep_mode: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment.

    Attributes:
        at: ISO 8601 UTC.
        window_seconds: over which rates and means are.
        plan_id: of the applied plan; empty without one.
        waiting_plan_id: of a plan that waits for `apply`; empty where none does.
        problems: what is not ready, by part.
        last_event: greatest id of an event; ask for what comes after it.
        convergence: how far the applied plan is.
        hosts: all hosts, if there are several; else empty.
    """

    at: str
    version: str
    window_seconds: float
    devices: tuple[DeviceOverview, ...]
    models: tuple[ModelOverview, ...]
    replicas: tuple[ReplicaOverview, ...]
    jobs: tuple[Job, ...]
    plan_id: str
    waiting_plan_id: str
    problems: tuple[tuple[str, str], ...]
    last_event: int
    convergence: Convergence = NOTHING_APPLIED
    hosts: tuple[HostView, ...] = ()
