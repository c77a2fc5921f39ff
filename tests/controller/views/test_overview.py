"""The overview of a service is right, with a real store and planner and the rest faked."""

import dataclasses

from partitiond.controller.views.overview import OverviewUseCases
from partitiond.controller.views.parts import compute_share, device_overviews, frontier_views
from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, TrafficWindow
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    WholeDevice,
)
from partitiond.core.model.spec import Demand
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.overview import ReplicaOverview
from tests.controller.host import Host
from tests.controller.samples import cpu, measured_profile
from tests.devices.fake import fake_gpus
from tests.machine import until

ONE_GIB = Bytes(GIB)


def gpu(**changes: object) -> Device:
    (made,) = fake_gpus("a100-80gb")
    return dataclasses.replace(made, **{"id": "GPU-1", "modes": (SharingMode.MPS,)} | changes)  # type: ignore[arg-type]


def on(device_id: str, *, held: int = 0, to_come: int = 0) -> ReplicaOverview:
    """An engine on a device."""
    share = MpsShare(device_id, ONE_GIB, 30)
    return ReplicaOverview(
        "a-1", "a-1", "a", device_id, share, "serving", GIB, 0.3, 8, 0, 1.0, 1.0, 1.0, 1.0,
        held_bytes=held, coming_bytes=to_come,
    )  # fmt: skip


def sample(name: str, at: float, ok: int, seconds: float) -> TrafficSample:
    """The proxy's counts once `seconds` of work were done."""
    tokens = 32 * ok
    return TrafficSample(
        at=at,
        epoch="one",
        models={"a": ModelCount(arrived=ok, ok=ok, output_tokens=tokens, in_flight=2)},
        replicas={
            name: ReplicaCount(
                "a", "g", ok=ok, output_tokens=tokens, sequence_seconds=3 * seconds, in_flight=2
            )
        },
    )


def measured(here: Host, window: TrafficWindow) -> OverviewUseCases:
    """The host's desk, with this traffic."""
    desk = here.service.overview
    assert isinstance(desk, OverviewUseCases)
    desk.sources = dataclasses.replace(desk.sources, window=lambda _: window)
    return desk


async def test_a_serving_model_is_shown_planned_and_measured(host: Host) -> None:
    host.measured("a")
    await host.register("a", demand=Demand(req_per_s=0.5))
    await until(lambda: [v.state for v in host.service.overview.replicas()] == ["serving"])
    (name,) = host.runner.running()
    looks = sample(name, 100.0, 0, 0.0), sample(name, 110.0, 40, 10.0)
    seen = await measured(host, TrafficWindow.between(*looks)).overview()
    (replica,), (model,), (device,) = seen.replicas, seen.models, seen.devices
    assert (replica.replica_id, bool(replica.engine)) == ("a-1", True)
    assert replica.compute_share in (0.5, 1.0)
    assert replica.measured is not None
    assert (replica.measured.req_per_s, replica.measured.mean_batch) == (4.0, 3.0)
    assert model.traffic is not None
    assert (model.traffic.output_tokens_per_s, model.demand_req_per_s) == (128.0, 0.5)
    assert model.capacity_req_per_s == replica.planned_req_per_s > 0
    planned = model.frontiers[0]
    assert (planned.planned_batch, planned.working_batch) == (replica.limit, 3.0)
    assert (planned.knee_batch, [p.batch for p in planned.points]) == (4, [1, 2, 4, 8])
    assert model.frontiers[-1].planned_batch is None
    assert (device.held_bytes, device.coming_bytes) == (replica.memory_bytes, 0)
    assert device.held_bytes <= device.room_bytes < device.device.memory_bytes
    assert seen.plan_id
    assert seen.last_event == max(event.id for event in host.store.events())


async def test_a_wanted_replica_without_an_engine_is_there_and_holds_nothing(host: Host) -> None:
    host.resolver.breaks["a"] = OSError("the disk is gone")
    host.measured("a")
    await host.register("a")
    await until(lambda: host.service.plans.applied() is not None)
    seen = await host.service.overview.overview()
    assert {(r.state, r.held_bytes, r.engine == r.replica_id) for r in seen.replicas} == {
        ("pending", 0, True)
    }
    (device,) = seen.devices
    to_come = sum(r.memory_bytes for r in seen.replicas)
    assert (device.held_bytes, device.coming_bytes) == (0, to_come)
    assert seen.models[0].capacity_req_per_s == 0


def test_memory_counts_what_is_held_and_what_the_driver_says() -> None:
    (view,) = device_overviews(
        [gpu(cordoned=True, cordon_reason="fan")],
        [on("GPU-1", held=GIB), on("GPU-1", held=3), on("GPU-1", to_come=7), on("x", held=9)],
        {"GPU-1": DeviceReading(used_bytes=5, watts=90.0, celsius=41.0)},
    )
    assert (view.held_bytes, view.coming_bytes) == (GIB + 3, 7)
    assert (view.used_bytes, view.watts) == (5, 90.0)
    assert view.busy_share is None
    assert view.cordoned == "fan"


def test_compute_is_a_share_of_the_device() -> None:
    devices = [cpu(4), gpu()]
    slice_ = MigSlice("GPU-1", ONE_GIB, "2g.20gb", 0, 2)
    for partition, cores, share in (
        (CpuCores("cpu", ONE_GIB, (0,)), 0, 0.25),
        (MpsShare("GPU-1", ONE_GIB, 30), 0, 0.3),
        (slice_, 0, 2 / 7),
        (MemoryShare("GPU-1", ONE_GIB), 4, 0.25),
        (WholeDevice("GPU-1", ONE_GIB), 0, 1.0),
    ):
        assert compute_share(partition, devices, cores) == share
    assert compute_share(slice_, [], 0) == 2 / 7


def test_frontiers_of_a_model_without_a_plan_say_what_is_known() -> None:
    (view,) = frontier_views([measured_profile("a")], (), ())
    assert (view.planned_batch, view.working_batch, view.size) == (None, None, "1 core")
    assert frontier_views([], (), ()) == ()
