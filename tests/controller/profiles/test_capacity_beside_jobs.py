"""Devices and hosts offer the right room to replicas while profile jobs run."""

import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.profiles.capacity_beside_jobs import (
    devices_beside_jobs,
    host_memory_beside_jobs,
)
from partitiond.controller.runtime.watching import engine_bytes
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import CpuCores, MpsShare, WholeDevice
from partitiond.core.model.spec import Demand
from partitiond.core.plan.record import Infeasible, Placement, Plan
from partitiond.core.replica.leases import Lease
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from partitiond.planner.model.types import PlanRequest
from partitiond.store import open_store
from tests.controller.fakes import plan_maker, solved
from tests.controller.samples import cpu, measured_profile, placement, record

CPU = dataclasses.replace(cpu(8), core_nodes=((0, 1, 2, 3), (4, 5, 6, 7)))
ONE, TWO = (
    dataclasses.replace(gpu, host=CPU.host) for gpu in fake_gpus("a100-80gb", 2, cores=range(8))
)
DEVICES = (CPU, ONE, TWO)
AWAY = dataclasses.replace(CPU, id="cpu-away", host="away")
WHOLE = Lease(WholeDevice(ONE.id, Bytes(70 * GIB)), (0, 1, 2, 3))
SHARE = Lease(MpsShare(TWO.id, Bytes(GIB), 20), (4, 5, 6, 7))
ENGINE = 3 * GIB
"""Host memory of the engine of a job on a GPU."""


def on_gpu(gpu: Device, cores: int, host_bytes: int = 0) -> Placement:
    one = placement("a-1", range(cores))
    taking = dataclasses.replace(one.candidate, host_memory_bytes=Bytes(host_bytes))
    share = MpsShare(gpu.id, Bytes(GIB), 10)
    return dataclasses.replace(one, device_id=gpu.id, partition=share, candidate=taking)


def cores_beside(
    leases: Sequence[Lease], *running: Placement, devices: Sequence[Device] = DEVICES
) -> list[tuple[int, ...]]:
    return [device.cores for device in devices_beside_jobs(devices, leases, running)]


def test_the_cores_that_a_job_beside_a_gpu_needs_are_no_replicas() -> None:
    """Two of those that it has, on all devices of its host; the others may be shared."""
    assert cores_beside([WHOLE]) == [(2, 3, 4, 5, 6, 7)] * 3
    assert cores_beside([WHOLE, SHARE]) == [(2, 3, 6, 7)] * 3
    assert devices_beside_jobs(DEVICES, [WHOLE], [])[0].core_nodes == ((2, 3), (4, 5, 6, 7))
    assert devices_beside_jobs([*DEVICES, AWAY], [WHOLE], [])[3] == AWAY
    assert devices_beside_jobs(DEVICES, [], []) == DEVICES


def test_all_cores_of_a_job_on_the_cpu_are_its_own_on_gpus_too() -> None:
    lease = Lease(CpuCores(CPU.id, Bytes(GIB), (4, 5, 6)), (4, 5, 6))
    assert cores_beside([lease]) == [(0, 1, 2, 3, 7)] * 3


@pytest.mark.parametrize(
    "running",
    [
        [on_gpu(ONE, 7)],
        [on_gpu(ONE, 4), on_gpu(TWO, 3)],
        [placement("a-1", (1,))],
    ],
)
def test_a_job_takes_no_cores_from_what_runs(running: list[Placement]) -> None:
    """It began in any case: beside engines on cores that are theirs, or are to be."""
    assert cores_beside([WHOLE], *running) == [CPU.cores] * 3


def test_what_runs_is_left_just_enough() -> None:
    assert cores_beside([WHOLE], on_gpu(ONE, 4), on_gpu(TWO, 2)) == [(2, 3, 4, 5, 6, 7)] * 3


def test_a_job_that_shares_its_cores_takes_none_nor_does_one_leave_a_device_without() -> None:
    assert cores_beside([dataclasses.replace(WHOLE, shares_cores=True)]) == [CPU.cores] * 3
    small = [dataclasses.replace(device, cores=(0, 1)) for device in DEVICES]
    assert cores_beside([WHOLE], devices=small) == [(0, 1)] * 3


def test_host_memory_of_the_engines_of_jobs_on_gpus_is_not_free() -> None:
    (there, *_) = devices_beside_jobs(DEVICES, [WHOLE, SHARE], [])
    assert engine_bytes(there) == engine_bytes(CPU) - 2 * ENGINE
    reserved = dataclasses.replace(CPU, reserved_bytes=Bytes(9 * GIB))
    (there, *_) = devices_beside_jobs([reserved, ONE], [WHOLE], [])
    assert engine_bytes(there) == engine_bytes(reserved) - ENGINE
    lease = Lease(CpuCores(CPU.id, Bytes(GIB), (4,)), (4,))
    (there, *_) = devices_beside_jobs(DEVICES, [lease], [])
    assert engine_bytes(there) == engine_bytes(CPU) - GIB  # its engine is in the partition


def test_a_job_takes_no_host_memory_from_what_runs() -> None:
    left = engine_bytes(CPU) - GIB
    running = on_gpu(ONE, 1, left)
    (there, *_) = devices_beside_jobs(DEVICES, [WHOLE], [running])
    assert engine_bytes(there) == left
    more = on_gpu(ONE, 1, left + 2 * GIB)
    assert devices_beside_jobs(DEVICES, [WHOLE], [more])[0].free_bytes == CPU.free_bytes


def test_host_memory_that_is_told_is_less_by_what_jobs_take_there() -> None:
    told = [(ONE.host, 10 * GIB), ("away", 5 * GIB)]
    gpus = (ONE, TWO)

    def left(*running: Placement) -> tuple[tuple[str, int], ...]:
        return host_memory_beside_jobs(told, gpus, [WHOLE, SHARE], running)

    assert left() == ((ONE.host, 4 * GIB), ("away", 5 * GIB))
    assert left(on_gpu(ONE, 1, 6 * GIB)) == ((ONE.host, 6 * GIB), ("away", 5 * GIB))
    assert left(on_gpu(ONE, 1, 11 * GIB)) == tuple(told)


async def test_a_plan_beside_a_job_on_a_gpu_is_one_of_what_the_job_leaves() -> None:
    two, gpu = cpu(2), dataclasses.replace(ONE, cores=(0, 1))
    lease = dataclasses.replace(WHOLE, cores=(0,))
    store = open_store(":memory:")
    store.add_model(record("a", min_replicas=1, max_replicas=1, demand=Demand(req_per_s=0.1)))
    store.add_profile(measured_profile("a"))
    desk = plan_maker(store)

    async def cores(free_gib: int, *leases: Lease) -> list[tuple[int, ...]]:
        devices = [dataclasses.replace(two, free_bytes=Bytes(free_gib * GIB)), gpu]
        there = desk.situation(devices=devices, running=[], leases=leases)
        placed = (await desk.preview(there, None)).plan.placements
        return [p.partition.cores for p in placed if isinstance(p.partition, CpuCores)]

    assert await cores(24) == [(0,)]
    assert await cores(24, lease) == [(1,)]
    assert await cores(3) == [(0,)]
    assert await cores(3, lease) == []
    store.close()


async def test_a_plan_beside_a_job_has_the_host_memory_that_the_job_leaves() -> None:
    """On a host without a CPU device, of which the settings say how much it has."""
    asked: list[PlanRequest] = []

    async def remembered(request: PlanRequest) -> Plan | Infeasible:
        asked.append(request)
        return await solved(request)

    store = open_store(":memory:")
    options = PlanOptions(host_memory_bytes=10 * GIB)
    desk = plan_maker(store, solve=remembered, options=options)
    for leases in ((), (WHOLE,)):
        await desk.preview(desk.situation(devices=[ONE], running=[], leases=leases), None)
    assert [dict(one.host_memory_bytes)[ONE.host] for one in asked] == [10 * GIB, 7 * GIB]
    store.close()
