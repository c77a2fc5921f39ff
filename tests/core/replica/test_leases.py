"""A profile job leases only room that nothing holds, and on a GPU only in its current mode."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware import partition
from partitiond.core.hardware.kinds import Device, DeviceKind, MigInstance, SharingMode
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica import leases
from partitiond.core.replica.leases import Lease, LeaseDenied, PartitionRequest
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import NOW, cpu
from tests.devices.fake import fake_gpus

ROOM_GIB = {DeviceKind.CPU: 20, DeviceKind.GPU: 70}
CPU = cpu(4)
(GPU,) = fake_gpus("a100-80gb")
SLICED = dataclasses.replace(GPU, modes=(SharingMode.MIG,))
SHARED = ("a-1", MemoryShare(GPU.id, Bytes(GIB)))
Held = tuple[str, Partition]


def held(name: str, *cores: int, gib: int = 4) -> Held:
    return name, CpuCores("cpu", Bytes(gib * GIB), cores)


def mps(name: str, percent: int) -> Held:
    return name, MpsShare(GPU.id, Bytes(10 * GIB), percent)


def mig(name: str, profile: str, start: int, count: int) -> Held:
    return name, MigSlice(GPU.id, Bytes(GIB), profile, start, count)


def asked(
    device: Device,
    *there: Held,
    busy: Collection[int] = (),
    lent_to: Mapping[int, str] | None = None,
    most: int | None = None,
    **wish: Any,
) -> Lease | LeaseDenied:
    cores = {} if most is None else {"most_cores": most}
    room = ROOM_GIB[device.kind] * GIB
    return leases.lease_for(
        device, PartitionRequest(**wish), room_bytes=room, held=there, busy_cores=busy,
        lent_cores=lent_to or {}, **cores,
    )  # fmt: skip


def lent(device: Device, *there: Held, **more: Any) -> Lease:
    found = asked(device, *there, **more)
    assert isinstance(found, Lease), found
    return found


def denied(device: Device, *there: Held, **more: Any) -> str:
    found = asked(device, *there, **more)
    assert isinstance(found, LeaseDenied), found
    return found.reason


@pytest.mark.parametrize(
    ("there", "wish", "cores", "gib"),
    [
        ([], {"cores": 2}, (0, 1), 20),
        ([], {}, (0, 1, 2, 3), 20),
        ([held("a-1", 0, 1)], {"cores": 2}, (2, 3), 16),
        ([], {"cores": 3, "lent_to": {0: "job-1", 9: "job-1"}}, (1, 2, 3), 20),
    ],
)
def test_of_a_cpu_is_lent_what_nobody_holds(
    there: list[Held], wish: dict[str, Any], cores: tuple[int, ...], gib: int
) -> None:
    lease = lent(CPU, *there, **wish)
    assert (lease.cores, lease.memory_bytes) == (cores, gib * GIB)


@given(st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=3), max_size=4), st.integers(1, 8))
def test_a_lease_never_overlaps_what_is_held(taken: list[set[int]], cores: int) -> None:
    busy = set().union(*taken)
    there = [held(f"a-{n}", *sorted(t), gib=1) for n, t in enumerate(taken)]
    lease = asked(cpu(8), *there, cores=cores)
    if isinstance(lease, Lease):
        assert busy.isdisjoint(lease.cores)
        assert len(lease.cores) == cores
    else:
        assert 8 - len(busy) < cores


FIXED = dataclasses.replace(
    SLICED,
    mig_instances=(MigInstance("3g.40gb", 4, 4, Bytes(39 * GIB), "MIG-a"),),
    mig_fixed=True,
)
OF_B = dataclasses.replace(GPU, mps_group="b")
OTHERS_LENT = dict.fromkeys(GPU.cores[:4], "job-1")
FEW = dataclasses.replace(GPU, max_replicas=1)


@pytest.mark.parametrize(
    ("device", "there", "wish", "words"),
    [
        (CPU, [held("a-1", 0), held("b-1", 3)], {"cores": 4},
         "waits for 4 free cores of cpu: a-1 holds core 0, b-1 holds core 3"),
        (CPU, [held("a-1", 0, gib=20)], {"cores": 1}, "memory"),
        (GPU, [SHARED], {}, f"waits for {GPU.id} to be free: held by a-1"),
        (GPU, [], {"memory_bytes": 71 * GIB}, "71 GiB of memory"),
        (SLICED, [], {}, "MIG mode"),
        (GPU, [mps("a-1", 70)], {"sm_percent": 31}, "30 % are not held (held by a-1)"),
        (GPU, [mps("a-1", 70)], {"sm_percent": 30, "memory_bytes": 62 * GIB}, "62 GiB of memory"),
        (GPU, [SHARED], {"sm_percent": 30}, "empty or in MPS mode: held by a-1"),
        (SLICED, [], {"sm_percent": 30}, "MPS"),
        (GPU, [mps("b-1", 20)], {"sm_percent": 30, "isolation_group": "a"},
         f"waits for the MPS daemon of {GPU.short_id}, which serves one isolation group and not "
         "that of the model now (held by b-1)"),
        (OF_B, [], {"sm_percent": 30, "isolation_group": "a"}, "isolation group"),
        (dataclasses.replace(GPU, occupied_sm_percent=80), [], {"sm_percent": 30}, "20 %"),
        (FEW, [mps("a-1", 20)], {"sm_percent": 20}, "MPS clients"),
        (GPU, [SHARED], {"mig_profile": "2g.20gb"}, "empty or in MIG mode"),
        (GPU, [mig("a-1", "4g.40gb", 0, 4), mig("b-1", "1g.10gb", 4, 1)],
         {"mig_profile": "3g.40gb"}, "a free place for 3g.40gb"),
        (FIXED, [], {"mig_profile": "2g.20gb"}, "2g.20gb"),
        # Engines that serve share their cores where nothing else is left; jobs do not.
        (GPU, [], {"busy": GPU.cores[4:15], "lent_to": OTHERS_LENT},
         f"waits for 2 idle host cores near {GPU.id}: others are lent to job-1"),
        (GPU, [], {"busy": GPU.cores[4:], "lent_to": OTHERS_LENT}, "2 idle host cores"),
    ],
)  # fmt: skip
def test_the_reason_to_wait_says_for_what_and_who_holds_it(
    device: Device, there: list[Held], wish: dict[str, Any], words: str
) -> None:
    assert words in denied(device, *there, **wish)


def test_a_gpu_is_lent_whole_or_by_memory_alone() -> None:
    whole = lent(GPU)
    assert whole.partition == partition.WholeDevice(GPU.id, Bytes(70 * GIB))
    assert whole.cores == GPU.cores
    share = lent(GPU, memory_bytes=8 * GIB)
    assert share.partition == MemoryShare(GPU.id, Bytes(8 * GIB))
    assert lent(OF_B).partition == whole.partition, "it measures without MPS"


def test_a_share_under_mps_is_lent_on_an_empty_gpu_and_beside_other_shares() -> None:
    left = 70 * GIB - mode_overhead_bytes(SharingMode.MPS)
    alone = lent(GPU, sm_percent=30)
    assert (alone.partition, alone.beside) == (MpsShare(GPU.id, Bytes(left), 30), ())
    beside = lent(GPU, mps("a-1", 70), sm_percent=30)
    assert (beside.memory_bytes, beside.beside) == (left - 10 * GIB, ("a-1",))
    assert lent(dataclasses.replace(GPU, occupied_sm_percent=80), sm_percent=20)
    mine = lent(GPU, sm_percent=30, isolation_group="a")
    assert partition.way_of(mine.partition) == (SharingMode.MPS, "a")
    (left_over,) = leases.devices_beside_leases((GPU,), (mine.partition,))
    assert left_over.mps_group == "a"


def test_a_slice_is_lent_beside_other_slices_and_of_a_fixed_geometry_what_exists() -> None:
    lease = lent(SLICED, mig("a-1", "3g.40gb", 4, 4), mig_profile="2g.20gb")
    assert isinstance(lease.partition, MigSlice)
    assert lease.partition.slice_start in {0, 2}
    assert 18 * GIB < lease.memory_bytes < 20 * GIB
    assert lent(FIXED, mig_profile="3g.40gb").memory_bytes < 39 * GIB


@pytest.mark.parametrize(
    ("given", "cores", "shares"),
    [
        ({"busy": {0, 1}}, GPU.cores[2:], False),
        ({"busy": GPU.cores}, GPU.cores, True),
        ({"most": 4}, GPU.cores[:4], False),
        ({"most": 4, "lent_to": OTHERS_LENT}, GPU.cores[4:8], False),
        ({"busy": GPU.cores, "lent_to": {70: "job-2"}}, GPU.cores, True),
    ],
)
def test_host_cores_are_those_of_nobody_else_where_there_are_such(
    given: dict[str, Any], cores: tuple[int, ...], shares: bool
) -> None:
    lease = lent(GPU, **given)
    assert (lease.cores, lease.shares_cores) == (cores, shares)


@pytest.mark.parametrize(
    ("busy", "cores"),
    [
        ((), GPU.cores[:6]),
        ((0, 1, 2), GPU.cores[8:14]),
        ((0, 1, 2, 8, 9, 10), (3, 4, 5, 6, 7, 11)),
    ],
)
def test_host_cores_are_of_one_node_where_it_has_enough(
    busy: tuple[int, ...], cores: tuple[int, ...]
) -> None:
    there = dataclasses.replace(GPU, core_nodes=(GPU.cores[:8], GPU.cores[8:]))
    assert lent(there, busy=busy, most=6).cores == cores


@pytest.mark.parametrize(
    ("params", "group", "wish"),
    [
        ({}, "", PartitionRequest()),
        ({}, "a", PartitionRequest()),
        ({"sm_percent": "30"}, "", PartitionRequest(sm_percent=30)),
        ({"sm_percent": "30"}, "a", PartitionRequest(sm_percent=30, isolation_group="a")),
        ({"mig_profile": "1g.10gb"}, "", PartitionRequest(mig_profile="1g.10gb")),
        ({"cores": "2", "memory_bytes": str(GIB)}, "", PartitionRequest(cores=2, memory_bytes=GIB)),
    ],
)
def test_a_stored_job_asks_for_its_partition(
    params: dict[str, str], group: str, wish: PartitionRequest
) -> None:
    stored = tuple(sorted({"device_id": "x", **params}.items()))
    job = Job("j", "profile", "a", JobState.QUEUED, NOW, NOW, Progress("waiting", ""), stored)
    assert leases.wish_of_job(job, group) == wish


def beside(device: Device, *lent_out: Partition) -> Device:
    (found,) = leases.devices_beside_leases([device], lent_out)
    return found


def test_what_a_job_holds_is_not_free_for_replicas() -> None:
    there = dataclasses.replace(CPU, core_nodes=((0, 1), (2, 3)))
    lease = CpuCores("cpu", Bytes(4 * GIB), (1, 2))
    found = beside(there, lease)
    assert (found.cores, found.core_nodes) == ((0, 3), ((0,), (3,)))
    assert found.free_bytes == there.free_bytes - 4 * GIB
    assert beside(GPU, lease) == GPU
    found = beside(there, dataclasses.replace(lease, cores=(0, 1, 2, 3)))
    assert found.cordoned, "without cores it would have no limit"
    assert found.free_bytes == there.free_bytes - 4 * GIB
    for alone in (partition.WholeDevice(GPU.id, Bytes(GIB)), MemoryShare(GPU.id, Bytes(GIB))):
        assert beside(GPU, alone).cordoned
    shares = [MpsShare(GPU.id, Bytes(gib * GIB), percent) for gib, percent in ((1, 20), (2, 30))]
    found = beside(dataclasses.replace(GPU, max_replicas=5), *shares)
    assert (found.occupied_sm_percent, found.max_replicas) == (50, 3)
    assert found.free_bytes == GPU.free_bytes - 3 * GIB
    occupied = dataclasses.replace(SLICED, occupied_slices=(7,))
    found = beside(occupied, MigSlice(GPU.id, Bytes(GIB), "2g.20gb", 2, 2))
    assert (found.occupied_slices, found.free_bytes) == ((2, 3, 7), GPU.free_bytes)
