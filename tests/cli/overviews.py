"""Builds an overview to draw: two GPUs and a CPU, three models, one of them without a replica."""

import dataclasses
from typing import Any

from partitiond.core.demand.traffic import ModelTraffic, ReplicaTraffic
from partitiond.core.events import Event
from partitiond.core.hardware.partition import CpuCores, MpsShare
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.overview import DeviceOverview, ModelOverview, Overview, ReplicaOverview
from tests.planner import build

GPUS = ("GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-1111")


def gpu(device_id: str, cordoned: str = "") -> DeviceOverview:
    """An A100 with room for 78 of its 80 GiB."""
    told: dict[str, Any] = {"used_bytes": 30 * GIB, "watts": 231.0, "busy_share": 0.43}
    memory = {"memory_bytes": Bytes(80 * GIB), "free_bytes": Bytes(79 * GIB)}
    device = build.gpu(device_id, host="here", cores=tuple(range(8)), **memory)
    return DeviceOverview(device, 60 * GIB, 0, 78 * GIB, cordoned=cordoned, **told)


def replica(
    replica_id: str,
    device_id: str,
    *,
    gib: int,
    share: float,
    state: str = "serving",
    load: int = 8,
) -> ReplicaOverview:
    """One replica; its model is its id without the number."""
    size = Bytes(gib * GIB)
    is_there = state not in {"pending", "failed"}
    return ReplicaOverview(
        replica_id=replica_id,
        engine=replica_id,
        model=replica_id.rpartition("-")[0],
        device_id=device_id,
        partition=CpuCores("cpu", size, (0, 1))
        if device_id == "cpu"
        else MpsShare(device_id, size, round(100 * share)),
        state=state,
        memory_bytes=size,
        compute_share=share,
        limit=32,
        in_flight=load,
        planned_output_tokens_per_s=1000.0,
        planned_req_per_s=10.0,
        planned_ttft_p95_seconds=0.1,
        planned_tpot_p95_seconds=0.02,
        held_bytes=size if is_there else 0,
        coming_bytes=0 if is_there else size,
        measured=ReplicaTraffic(
            "m", 30.0, ok=90, req_per_s=3.0, output_tokens_per_s=100.0 * load, tpot_seconds=0.018
        ),
    )


def model(name: str, req_per_s: float | None, *, waiting: int = 0) -> ModelOverview:
    """One model; None for one without traffic."""
    traffic = req_per_s and ModelTraffic(
        30.0,
        req_per_s=req_per_s,
        output_tokens_per_s=64 * req_per_s,
        ttft_p95_seconds=req_per_s / 100,
        waiting=waiting,
        in_flight=3,
    )
    return ModelOverview(
        name=name,
        availability="serving" if traffic else "unavailable",
        replicas_serving=1 if traffic else 0,
        replicas_planned=1,
        demand_req_per_s=12.0,
        forecast_req_per_s=None,
        capacity_req_per_s=20.0,
        traffic=traffic or None,
        frontiers=(),
        note="" if traffic else "its files are fetched",
    )


def overview() -> Overview:
    """Everything."""
    sweep = Progress("sweep", "batch 16", 0.4, 30.0)
    job = Job("job-7", "profile", "ant", JobState.RUNNING, "", "", sweep, device_id=GPUS[0])
    cpu = DeviceOverview(build.cpu(4, gib=16, host="here"), 2 * GIB, 0, 15 * GIB)
    return Overview(
        at="2026-11-21T03:04:05+00:00",
        version="0.7",
        window_seconds=30.0,
        devices=(gpu(GPUS[0]), gpu(GPUS[1], cordoned="the fan is replaced"), cpu),
        models=(model("ant", 4.0), model("bee", 9.0, waiting=5), model("cow", None)),
        replicas=(
            replica("ant-1", GPUS[0], gib=20, share=0.25),
            replica("bee-1", GPUS[0], gib=40, share=0.5, load=24),
            replica("bee-2", "cpu", gib=4, share=0.5, state="starting", load=0),
        ),
        jobs=(job,),
        plan_id="plan-2",
        waiting_plan_id="plan-3",
        problems=(("proxy", "it was started again"),),
        last_event=12,
    )


def many(count: int) -> Overview:
    """A fleet of so many devices, models and replicas."""
    return dataclasses.replace(
        overview(),
        devices=tuple(gpu(f"GPU-{n:08d}-x") for n in range(count)),
        models=tuple(model(f"model-{n:03d}", n + 0.5) for n in range(count)),
        replicas=tuple(
            replica(f"model-{n:03d}-1", f"GPU-{n:08d}-x", gib=10, share=0.2) for n in range(count)
        ),
    )


def events(count: int) -> list[Event]:
    """So many events, oldest first."""
    return [
        Event(n, f"2026-11-21T03:{n % 60:02d}:00+00:00", "engine-ready", "ant-1", f"word {n}")
        for n in range(1, count + 1)
    ]
