"""Devices and hosts offer the right room to replicas while profile jobs run."""

import dataclasses

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
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Infeasible, Placement, Plan
from partitiond.core.replica.leases import Lease
from partitiond.core.units import GIB, Bytes
from partitiond.planner.model.types import PlanRequest
from partitiond.store import Store
from tests.controller.fakes import plan_maker, solved
from tests.controller.samples import cpu, measured_profile, placement, record
from tests.devices.fake import fake_gpus

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


@pytest.mark.parametrize(
    ("leases", "running", "left"),
    [
        ([], [], CPU.cores),
        ([WHOLE], [], (2, 3, 4, 5, 6, 7)),  # two of those that it has; others may be shared
        ([WHOLE, SHARE], [], (2, 3, 6, 7)),
        ([Lease(CpuCores(CPU.id, Bytes(GIB), (4, 5, 6)), (4, 5, 6))], [], (0, 1, 2, 3, 7)),
        ([dataclasses.replace(WHOLE, shares_cores=True)], [], CPU.cores),
        # A job takes no cores from what runs, which is left just enough.
        ([WHOLE], [on_gpu(ONE, 7)], CPU.cores),
        ([WHOLE], [on_gpu(ONE, 4), on_gpu(TWO, 3)], CPU.cores),
        ([WHOLE], [placement("a-1", (1,))], CPU.cores),
        ([WHOLE], [on_gpu(ONE, 4), on_gpu(TWO, 2)], (2, 3, 4, 5, 6, 7)),
    ],
)
def test_the_cores_that_jobs_need_are_no_replicas_on_any_device_of_their_host(
    leases: list[Lease], running: list[Placement], left: tuple[int, ...]
) -> None:
    found = devices_beside_jobs([*DEVICES, AWAY], leases, running)
    assert [device.cores for device in found] == [left, left, left, AWAY.cores]


def test_no_device_is_left_without_cores() -> None:
    assert devices_beside_jobs(DEVICES, [WHOLE], [])[0].core_nodes == ((2, 3), (4, 5, 6, 7))
    small = [dataclasses.replace(device, cores=(0, 1)) for device in DEVICES]
    assert [d.cores for d in devices_beside_jobs(small, [WHOLE], [])] == [(0, 1)] * 3


def test_host_memory_of_the_engines_of_jobs_on_gpus_is_not_free() -> None:
    (there, *_) = devices_beside_jobs(DEVICES, [WHOLE, SHARE], [])
    assert engine_bytes(there) == engine_bytes(CPU) - 2 * ENGINE
    reserved = dataclasses.replace(CPU, reserved_bytes=Bytes(9 * GIB))
    (there, *_) = devices_beside_jobs([reserved, ONE], [WHOLE], [])
    assert engine_bytes(there) == engine_bytes(reserved) - ENGINE
    lease = Lease(CpuCores(CPU.id, Bytes(GIB), (4,)), (4,))
    (there, *_) = devices_beside_jobs(DEVICES, [lease], [])
    assert engine_bytes(there) == engine_bytes(CPU) - GIB  # its engine is in the partition
    left = engine_bytes(CPU) - GIB
    (there, *_) = devices_beside_jobs(DEVICES, [WHOLE], [on_gpu(ONE, 1, left)])
    assert engine_bytes(there) == left  # a job takes none from what runs
    (there, *_) = devices_beside_jobs(DEVICES, [WHOLE], [on_gpu(ONE, 1, left + 2 * GIB)])
    assert there.free_bytes == CPU.free_bytes


def test_host_memory_that_is_told_is_less_by_what_jobs_take_there() -> None:
    told = [(ONE.host, 10 * GIB), ("away", 5 * GIB)]
    gpus = (ONE, TWO)

    def left(*running: Placement) -> tuple[tuple[str, int], ...]:
        return host_memory_beside_jobs(told, gpus, [WHOLE, SHARE], running)

    assert left() == ((ONE.host, 4 * GIB), ("away", 5 * GIB))
    assert left(on_gpu(ONE, 1, 6 * GIB)) == ((ONE.host, 6 * GIB), ("away", 5 * GIB))
    assert left(on_gpu(ONE, 1, 11 * GIB)) == tuple(told)


async def test_a_plan_beside_a_job_on_a_gpu_is_one_of_what_the_job_leaves(store: Store) -> None:
    two, gpu = cpu(2), dataclasses.replace(ONE, cores=(0, 1))
    lease = dataclasses.replace(WHOLE, cores=(0,))
    asked: list[PlanRequest] = []

    async def remembered(request: PlanRequest) -> Plan | Infeasible:
        asked.append(request)
        return await solved(request)

    store.add_model(record("a", min_replicas=1, max_replicas=1, demand=Demand(req_per_s=0.1)))
    store.add_profile(measured_profile("a"))
    options = PlanOptions(host_memory_bytes=10 * GIB)
    desk = plan_maker(store, solve=remembered, options=options)
    for free_gib, leases, cores in (
        (24, (), [(0,)]), (24, (lease,), [(1,)]), (3, (), [(0,)]), (3, (lease,), [])
    ):  # fmt: skip
        devices = [dataclasses.replace(two, free_bytes=Bytes(free_gib * GIB)), gpu]
        there = desk.situation(devices=devices, running=[], leases=leases)
        made = (await desk.preview(there, None)).plan
        own = [p.partition for p in made.placements]
        assert [share.cores for share in own if isinstance(share, CpuCores)] == cores
    del asked[:]
    for held in ((), (WHOLE,)):  # on a host without a CPU device the settings say how much it has
        await desk.preview(desk.situation(devices=[ONE], running=[], leases=held), None)
    assert [dict(one.host_memory_bytes)[ONE.host] for one in asked] == [10 * GIB, 7 * GIB]


async def test_a_plan_made_beside_a_job_is_one_of_the_whole_device(store: Store) -> None:
    store.add_model(record("a", min_replicas=1, max_replicas=1))
    store.add_profile(measured_profile("a"))
    desk = plan_maker(store)
    lease = Lease(CpuCores("cpu", Bytes(GIB), (0,)), (0,))
    # What runs is to be replaced: beside a free core it would get that, and beside a job its own.
    running = [placement("a-1", (1,), batch=1)]
    beside = desk.situation(devices=[cpu()], running=running, leases=[lease])
    preview = await desk.preview(beside, None, PlanQuestion(allow_outage=True))
    (placed,) = preview.plan.placements
    assert isinstance(placed.partition, CpuCores)
    assert placed.partition.cores == (1,)
    assert preview.plan.devices == (cpu(),)
    without = desk.situation(devices=[cpu()], running=running)
    assert desk.recall(preview.plan.id, without, None) == preview  # the job is over
