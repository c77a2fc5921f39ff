"""What a profile job may use: only what nobody holds."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.controller.leases import Lease, Waits, lease_for
from partitiond.core.hardware import Device
from partitiond.core.partition import CpuCores, MemoryShare, Partition
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from tests.controller.samples import cpu

ROOM = 20 * GIB


def held(name: str, cores: tuple[int, ...], gib: int = 4) -> tuple[str, Partition]:
    return name, CpuCores("cpu", Bytes(gib * GIB), cores)


def ask(
    *held_now: tuple[str, Partition],
    cores: int | None = 1,
    memory_bytes: int | None = None,
    device: Device | None = None,
) -> Lease | Waits:
    return lease_for(
        device or cpu(4),
        cores=cores,
        memory_bytes=memory_bytes,
        room_bytes=ROOM,
        held=held_now,
    )


def test_a_free_device_is_lent_as_asked() -> None:
    lease = ask(cores=2)
    assert isinstance(lease, Lease)
    assert (lease.cores, lease.memory_bytes) == ((0, 1), ROOM)


def test_all_cores_are_lent_where_no_number_is_asked() -> None:
    lease = ask(cores=None)
    assert isinstance(lease, Lease)
    assert lease.cores == (0, 1, 2, 3)


def test_what_a_replica_holds_is_left_alone() -> None:
    lease = ask(held("a-1", (0, 1)), cores=2)
    assert isinstance(lease, Lease)
    assert (lease.cores, lease.memory_bytes) == ((2, 3), ROOM - 4 * GIB)


def test_the_reason_to_wait_names_who_holds_what() -> None:
    wait = ask(held("a-1", (0,)), held("b-1", (3,)), cores=4)
    assert wait == Waits("waits for 4 free cores of cpu: a-1 holds core 0, b-1 holds core 3")


def test_too_little_memory_is_waited_for() -> None:
    wait = ask(held("a-1", (0,), gib=18), cores=1, memory_bytes=4 * GIB)
    assert isinstance(wait, Waits)
    assert "4 GiB of memory" in wait.reason
    assert isinstance(ask(held("a-1", (0,), gib=20)), Waits)


def test_a_gpu_is_lent_whole_or_not_at_all() -> None:
    (gpu,) = fake_gpus("a100-80gb")
    lease = ask(device=gpu)
    assert isinstance(lease, Lease)
    assert lease.cores == gpu.cores
    wait = ask(("a-1", MemoryShare(gpu.id, Bytes(GIB))), device=gpu)
    assert wait == Waits(f"waits for {gpu.id} to be free: held by a-1")


@given(st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=3), max_size=4), st.integers(1, 8))
def test_a_lease_never_overlaps_what_is_held(taken: list[set[int]], cores: int) -> None:
    partitions = [held(f"a-{n}", tuple(sorted(t)), gib=1) for n, t in enumerate(taken)]
    lease = ask(*partitions, cores=cores, device=cpu(8))
    busy = set().union(*taken) if taken else set()
    if isinstance(lease, Lease):
        assert busy.isdisjoint(lease.cores)
        assert len(lease.cores) == cores
    else:
        assert 8 - len(busy) < cores
