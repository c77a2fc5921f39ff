"""A model makes room by sleep if that frees memory, and else by ending its process."""

import dataclasses

import pytest

from partitiond.controller.demand.room import free_room, level_to_go_to
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from tests.controller.samples import cpu, placement

SHARE = MpsShare("gpu-0", Bytes(10 * GIB), 20)
SLICE = MigSlice("gpu-0", Bytes(10 * GIB), "1g.10gb", 0, 1)
MEASURED = SleepingFootprint(Bytes(2 * GIB), Bytes(GIB))


def on(partition: Partition, asleep: SleepingFootprint | None = MEASURED) -> Placement:
    base = placement("a-1", [0])
    candidate = dataclasses.replace(base.candidate, asleep=asleep)
    return dataclasses.replace(base, partition=partition, candidate=candidate)


@pytest.mark.parametrize(
    ("placed", "level"),
    [
        (on(SHARE), 1),
        (on(SLICE), STOPPED),  # it stays taken under an engine asleep
        (dataclasses.replace(on(SHARE, None), partition=SHARE), 1),  # its SMs come free
        (placement("a-1", [0]), 1),  # its core comes free
    ],
)
def test_a_model_sleeps_only_where_that_frees_room(placed: Placement, level: int) -> None:
    assert level_to_go_to([placed], can_sleep=True) == level
    assert level_to_go_to([placed], can_sleep=False) == STOPPED


def test_what_is_gone_already_frees_nothing_asleep() -> None:
    assert level_to_go_to([], can_sleep=True) == STOPPED


def test_a_profile_job_leaves_what_a_plan_could_place_beside_it() -> None:
    gpu = fake_gpus("a100-80gb")[0]
    room = {gpu.id: 70 * GIB, "cpu": 20 * GIB}
    cores = CpuCores("cpu", Bytes(4 * GIB), (0,))
    free = free_room([gpu, cpu(4)], room, [], [cores])
    assert (free("cpu").memory_bytes, free("cpu").units) == (16 * GIB, 3)
    assert free(gpu.id).memory_bytes == 70 * GIB
    alone = MemoryShare(gpu.id, Bytes(GIB))
    assert free_room([gpu], room, [], [alone])(gpu.id).memory_bytes < 0
    share = MpsShare(gpu.id, Bytes(10 * GIB), 30)
    beside = free_room([gpu], room, [], [share])(gpu.id)
    assert (beside.memory_bytes, beside.units) == (60 * GIB, 70)
