"""Computes the parts of an overview, each by a function of data. Pure."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from partitiond.controller.runtime.watching import engine_bytes
from partitiond.controller.views.records import PlacedView
from partitiond.core.demand.traffic import ModelTraffic, ReplicaTraffic, TrafficWindow
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import MIG_COMPUTE_SLICES, Device, MigProfile, SharingMode
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import ModelForecast, Placement, Plan
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ModelView
from partitiond.core.views.overview import (
    DeviceOverview,
    FrontierPoint,
    FrontierView,
    ModelOverview,
    ReplicaOverview,
)

_NOTHING_READ: Final = DeviceReading()
_SERVING: Final = "serving"


def replica_overview(
    replica: PlacedView,
    devices: Sequence[Device],
    levels: Mapping[str, float | None],
    *,
    measured: ReplicaTraffic | None,
    drift: Callable[[str], str],
    time_sliced: int = 1,
) -> ReplicaOverview:
    """Return the overview of one replica.

    Args:
        devices: its own, at least.
        levels: by how much replicas slow each other down, by device.
        measured: its traffic over the window.
        drift: returns what is known of the drift of an engine.
        time_sliced: number of memory shares on its device.
    """
    view, placement = replica.view, replica.placement
    candidate, level = placement.candidate, levels.get(placement.device_id) or 1.0
    return ReplicaOverview(
        replica_id=placement.replica_id,
        engine=view.engine,
        model=view.model,
        device_id=view.device_id,
        partition=view.partition,
        state=view.state,
        memory_bytes=view.memory_bytes,
        held_bytes=view.held_bytes,
        coming_bytes=view.coming_bytes,
        compute_share=compute_share(replica.holds or view.partition, devices, time_sliced),
        limit=view.limit,
        in_flight=view.in_flight,
        planned_output_tokens_per_s=candidate.output_tokens_per_s / level,
        planned_req_per_s=candidate.capacity_req_per_s / level,
        planned_ttft_p95_seconds=candidate.ttft_p95_seconds * level,
        planned_tpot_p95_seconds=candidate.tpot_p95_seconds * level,
        measured=measured,
        drift=drift(view.engine),
        host=view.host,
    )


def compute_share(partition: Partition, devices: Sequence[Device], time_sliced: int) -> float:
    """Return the share of its device's compute that a partition has, 0..1.

    Args:
        partition: of a replica.
        devices: its own, at least.
        time_sliced: number of memory shares on its device; they take turns, in equal parts.
    """
    device = next((d for d in devices if d.id == partition.device_id), None)
    match partition:
        case CpuCores(cores=cores):
            all_cores = len(device.cores) if device is not None else len(cores)
            return min(1.0, len(cores) / max(1, all_cores))
        case MpsShare(sm_percent=percent):
            return percent / 100
        case MigSlice(mig_profile=name):
            return _slice_share(name, device)
        case MemoryShare():
            return 1.0 / max(1, time_sliced)
        case _:
            return 1.0


def _slice_share(name: str, device: Device | None) -> float:
    offered: Iterable[MigProfile] = device.mig_profiles if device is not None else ()
    known = HARDWARE.get(device.hardware) if device is not None else None
    catalog = known.mig_profiles if known is not None else ()
    for profile in (*offered, *catalog):
        if profile.name == name:
            return profile.compute_slices / MIG_COMPUTE_SLICES
    digits = name.split("g", 1)[0]  # "2g.20gb" has two of the seven slices
    return int(digits) / MIG_COMPUTE_SLICES if digits.isdigit() else 1.0


def device_overviews(
    devices: Sequence[Device],
    replicas: Sequence[ReplicaOverview],
    readings: Mapping[str, DeviceReading],
) -> tuple[DeviceOverview, ...]:
    """All devices and how full they are.

    Args:
        replicas: of all models.
        readings: what devices say of themselves.
    """
    views = []
    on_device = grouped(replicas, lambda replica: replica.device_id)
    for device in devices:
        reading = readings.get(device.id, _NOTHING_READ)
        here = on_device.get(device.id, ())
        views.append(
            DeviceOverview(
                device=device,
                held_bytes=sum(replica.held_bytes for replica in here),
                coming_bytes=sum(replica.coming_bytes for replica in here),
                room_bytes=engine_bytes(device),
                used_bytes=reading.used_bytes,
                watts=reading.watts,
                busy_share=reading.busy_share,
                celsius=reading.celsius,
                cordoned=(device.cordon_reason or "cordoned") if device.cordoned else "",
            )
        )
    return tuple(views)


def frontier_views(
    profiles: Sequence[Profile],
    placements: Sequence[Placement],
    replicas: Sequence[ReplicaOverview],
) -> tuple[FrontierView, ...]:
    """Return the frontiers of a model; those that its replicas run on come first.

    Args:
        profiles: the best of each hardware and size, with the derived ones that plans use.
        placements: those of the model in the applied plan.
        replicas: of this model, or of more.
    """
    of_replica = {p.replica_id: p.candidate.profile_id for p in placements}
    views = []
    for profile in profiles:
        own = [p for p in placements if p.candidate.profile_id == profile.id]
        batches = [
            r.measured.mean_batch
            for r in replicas
            if r.measured is not None
            and r.state == _SERVING
            and of_replica.get(r.replica_id) == profile.id
        ]
        views.append(
            FrontierView(
                profile_id=profile.id,
                kind=profile.kind.value,
                hardware=profile.hardware,
                size=size_in_words(profile),
                points=_points(profile),
                knee_batch=profile.knee.batch,
                planned_batch=max((p.candidate.batch for p in own), default=None),
                working_batch=math.fsum(batches) / len(batches) if batches else None,
            )
        )
    return tuple(sorted(views, key=lambda view: view.planned_batch is None))


def _points(profile: Profile) -> tuple[FrontierPoint, ...]:
    usable = [point for point in profile.points if not point.kv_limited]
    return tuple(
        FrontierPoint(
            batch=point.batch,
            output_tokens_per_s=point.output_tokens_per_s,
            footprint_bytes=point.footprint_bytes,
            ttft_p95_seconds=point.ttft.p95,
            tpot_p95_seconds=point.tpot.p95,
            interval=point.half_width,
        )
        for point in sorted(usable, key=lambda point: point.batch)
    )


def size_in_words(profile: Profile) -> str:
    """Return the size in words: "2 cores", "30 % of the SMs", "MIG 2g.20gb", "whole device"."""
    size = profile.size
    match size.mode:
        case SharingMode.CORES:
            return f"{size.cores} core{'s' if size.cores != 1 else ''}"
        case SharingMode.MPS:
            return f"{size.sm_percent} % of the SMs"
        case SharingMode.MIG:
            return f"MIG {size.mig_profile}"
        case SharingMode.MEMORY:
            return "memory share"
        case _:
            return "whole device"


def model_overviews(
    models: Sequence[ModelView],
    *,
    plan: Plan | None,
    replicas: Sequence[ReplicaOverview],
    window: TrafficWindow,
    profiles: Mapping[str, Sequence[Profile]],
    expected: Mapping[str, float | None],
) -> tuple[ModelOverview, ...]:
    """Return the overviews of all models.

    Args:
        models: as people see them.
        plan: the applied plan.
        replicas: of all models.
        window: the traffic of models and replicas.
        profiles: the best ones by model.
        expected: requests/s that autoscaling expects, by model; absent if it ignores the model.
    """
    own = grouped(replicas, lambda replica: replica.model)
    placed = grouped(plan.wanted if plan is not None else (), lambda place: place.model)
    forecasts = {one.model: one for one in (plan.forecasts if plan is not None else ())}
    return tuple(
        model_overview(
            view,
            planned=forecasts.get(name),
            replicas=own.get(name, ()),
            traffic=window.models.get(name),
            frontiers=frontier_views(
                profiles.get(name, ()), placed.get(name, ()), own.get(name, ())
            ),
            forecast=expected.get(name),
        )
        for view in models
        for name in [view.record.spec.name]
    )


def model_overview(
    view: ModelView,
    *,
    planned: ModelForecast | None,
    replicas: Sequence[ReplicaOverview],
    traffic: ModelTraffic | None,
    frontiers: tuple[FrontierView, ...],
    forecast: float | None,
) -> ModelOverview:
    """Return the overview of one model.

    Args:
        view: as people see it.
        planned: what the applied plan predicts for it.
        replicas: its own.
        traffic: over the window.
        frontiers: of its best profiles.
        forecast: requests/s that autoscaling expects; None if autoscaling ignores the model.
    """
    name = view.record.spec.name
    serving = [replica for replica in replicas if replica.state == _SERVING]
    return ModelOverview(
        name=name,
        availability=view.availability,
        replicas_serving=view.replicas_serving,
        replicas_planned=view.replicas_planned,
        demand_req_per_s=view.record.spec.demand.planned_req_per_s,
        forecast_req_per_s=forecast,
        capacity_req_per_s=math.fsum(replica.planned_req_per_s for replica in serving),
        traffic=traffic,
        frontiers=frontiers,
        note=view.note,
        joules_per_s=planned.watts if planned is not None else None,
        obstacle=view.obstacle,
        sleep_mode=view.record.spec.engine.sleep_mode,
    )
