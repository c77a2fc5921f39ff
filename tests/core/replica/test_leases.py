"""A profile job leases only room that nothing holds, and on a GPU only in its current mode."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, MigInstance, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
    way_of,
)
from partitiond.core.hardware.room import overlap
from partitiond.core.mig.geometry import Place, geometry_of, starts_of
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica.leases import (
    Lease,
    LeaseDenied,
    PartitionRequest,
    devices_beside_leases,
    free_place,
    lease_for,
    wish_of_job,
)
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from tests.controller.samples import NOW, cpu

ROOM = 20 * GIB
GPU_ROOM = 70 * GIB
(GPU,) = fake_gpus("a100-80gb")
SLICED = dataclasses.replace(GPU, modes=(SharingMode.MIG,))


def held(name: str, cores: tuple[int, ...], gib: int = 4) -> tuple[str, Partition]:
    return name, CpuCores("cpu", Bytes(gib * GIB), cores)


def mps(name: str, percent: int, gib: int = 10) -> tuple[str, Partition]:
    return name, MpsShare(GPU.id, Bytes(gib * GIB), percent)


def mig(name: str, profile: str, start: int, count: int) -> tuple[str, Partition]:
    return name, MigSlice(GPU.id, Bytes(GIB), profile, start, count)


def ask(
    *held_now: tuple[str, Partition],
    cores: int | None = 1,
    memory_bytes: int | None = None,
    device: Device | None = None,
) -> Lease | LeaseDenied:
    wish = PartitionRequest(cores=cores, memory_bytes=memory_bytes)
    return lease_for(device or cpu(4), wish, room_bytes=ROOM, held=held_now)


def on_gpu(
    wish: PartitionRequest,
    *held_now: tuple[str, Partition],
    device: Device = GPU,
    room: int = GPU_ROOM,
) -> Lease | LeaseDenied:
    return lease_for(device, wish, room_bytes=room, held=held_now)


# -- the CPU ---------------------------------------------------------------------------------


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
    assert wait == LeaseDenied("waits for 4 free cores of cpu: a-1 holds core 0, b-1 holds core 3")


def test_too_little_memory_is_waited_for() -> None:
    wait = ask(held("a-1", (0,), gib=18), cores=1, memory_bytes=4 * GIB)
    assert isinstance(wait, LeaseDenied)
    assert "4 GiB of memory" in wait.reason
    assert isinstance(ask(held("a-1", (0,), gib=20)), LeaseDenied)


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


# -- GPUs: alone -----------------------------------------------------------------------------


def test_a_gpu_is_lent_whole_or_not_at_all() -> None:
    lease = on_gpu(PartitionRequest())
    assert isinstance(lease, Lease)
    assert lease.partition == WholeDevice(GPU.id, Bytes(GPU_ROOM))
    assert lease.cores == GPU.cores
    wait = on_gpu(PartitionRequest(), ("a-1", MemoryShare(GPU.id, Bytes(GIB))))
    assert wait == LeaseDenied(f"waits for {GPU.id} to be free: held by a-1")


def test_memory_asks_for_a_memory_share_and_that_is_measured_alone() -> None:
    lease = on_gpu(PartitionRequest(memory_bytes=8 * GIB))
    assert isinstance(lease, Lease)
    assert lease.partition == MemoryShare(GPU.id, Bytes(8 * GIB))
    neighbour = ("a-1", MemoryShare(GPU.id, Bytes(GIB)))
    assert isinstance(on_gpu(PartitionRequest(memory_bytes=8 * GIB), neighbour), LeaseDenied)
    wait = on_gpu(PartitionRequest(memory_bytes=71 * GIB))
    assert isinstance(wait, LeaseDenied)
    assert "71 GiB of memory" in wait.reason


def test_a_gpu_in_mig_mode_is_not_lent_whole() -> None:
    wait = on_gpu(PartitionRequest(), device=SLICED)
    assert isinstance(wait, LeaseDenied)
    assert "MIG mode" in wait.reason


def test_cores_of_other_engines_are_left_to_them_where_there_are_others() -> None:
    lease = lease_for(GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), busy_cores={0, 1})
    assert isinstance(lease, Lease)
    assert (lease.cores, lease.shares_cores) == (GPU.cores[2:], False)
    everything = lease_for(
        GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), busy_cores=GPU.cores
    )
    assert isinstance(everything, Lease)
    assert (everything.cores, everything.shares_cores) == (GPU.cores, True)


# -- GPUs: MPS -------------------------------------------------------------------------------


def test_a_share_under_mps_is_lent_on_an_empty_gpu_and_beside_other_shares() -> None:
    overhead = mode_overhead_bytes(SharingMode.MPS)
    alone = on_gpu(PartitionRequest(sm_percent=30))
    assert isinstance(alone, Lease)
    assert alone.partition == MpsShare(GPU.id, Bytes(GPU_ROOM - overhead), 30)
    assert alone.beside == ()
    beside = on_gpu(PartitionRequest(sm_percent=30), mps("a-1", 70))
    assert isinstance(beside, Lease)
    assert beside.memory_bytes == GPU_ROOM - overhead - 10 * GIB
    assert beside.beside == ("a-1",)


def test_a_share_under_mps_waits_for_percent_memory_and_mode() -> None:
    percent = on_gpu(PartitionRequest(sm_percent=31), mps("a-1", 70))
    assert isinstance(percent, LeaseDenied)
    assert "30 % are not held (held by a-1)" in percent.reason
    memory = on_gpu(PartitionRequest(sm_percent=30, memory_bytes=62 * GIB), mps("a-1", 70))
    assert isinstance(memory, LeaseDenied)
    assert "62 GiB of memory" in memory.reason
    mode = on_gpu(PartitionRequest(sm_percent=30), ("a-1", MemoryShare(GPU.id, Bytes(GIB))))
    assert isinstance(mode, LeaseDenied)
    assert "empty or in MPS mode: held by a-1" in mode.reason
    assert isinstance(on_gpu(PartitionRequest(sm_percent=30), device=SLICED), LeaseDenied)


def test_a_share_under_mps_waits_for_a_daemon_of_its_isolation_group() -> None:
    mine = PartitionRequest(sm_percent=30, isolation_group="a")
    lease = on_gpu(mine)
    assert isinstance(lease, Lease)
    assert way_of(lease.partition) == (SharingMode.MPS, "a")
    wait = on_gpu(mine, mps("b-1", 20))
    assert isinstance(wait, LeaseDenied)
    assert wait.reason == (
        f"waits for the MPS daemon of {GPU.short_id}, which serves one isolation group and not "
        "that of the model now (held by b-1)"
    )
    kept = dataclasses.replace(GPU, mps_group="b")
    assert isinstance(on_gpu(mine, device=kept), LeaseDenied)
    (beside,) = devices_beside_leases((GPU,), (lease.partition,))
    assert beside.mps_group == "a"
    assert isinstance(on_gpu(PartitionRequest(), device=kept), Lease), "it measures without MPS"


def test_what_others_hold_under_mps_counts() -> None:
    shared = dataclasses.replace(GPU, occupied_sm_percent=80)
    assert isinstance(on_gpu(PartitionRequest(sm_percent=30), device=shared), LeaseDenied)
    assert isinstance(on_gpu(PartitionRequest(sm_percent=20), device=shared), Lease)
    few = dataclasses.replace(GPU, max_replicas=1)
    wait = on_gpu(PartitionRequest(sm_percent=20), mps("a-1", 20), device=few)
    assert isinstance(wait, LeaseDenied)
    assert "MPS clients" in wait.reason


# -- GPUs: MIG -------------------------------------------------------------------------------


def test_a_slice_is_lent_beside_other_slices_and_nothing_else() -> None:
    lease = on_gpu(
        PartitionRequest(mig_profile="2g.20gb"), mig("a-1", "3g.40gb", 4, 4), device=SLICED
    )
    assert isinstance(lease, Lease)
    assert isinstance(lease.partition, MigSlice)
    assert lease.partition.slice_start in {0, 2}
    assert 18 * GIB < lease.memory_bytes < 20 * GIB
    wait = on_gpu(PartitionRequest(mig_profile="2g.20gb"), ("a-1", MemoryShare(GPU.id, Bytes(GIB))))
    assert isinstance(wait, LeaseDenied)
    assert "empty or in MIG mode" in wait.reason
    full = on_gpu(
        PartitionRequest(mig_profile="3g.40gb"),
        mig("a-1", "4g.40gb", 0, 4),
        mig("b-1", "1g.10gb", 4, 1),
    )
    assert isinstance(full, LeaseDenied)
    assert "a free place for 3g.40gb" in full.reason


def test_an_idle_instance_that_exists_is_taken_first() -> None:
    there = (
        MigInstance("2g.20gb", 0, 2, Bytes(19 * GIB), "MIG-a", busy=True),
        MigInstance("2g.20gb", 4, 2, Bytes(19 * GIB), "MIG-b"),
    )
    device = dataclasses.replace(SLICED, mig_instances=there, occupied_slices=(0, 1))
    assert free_place(device, "2g.20gb", ()) == ("2g.20gb", 4, 2)
    place = free_place(device, "2g.20gb", (("2g.20gb", 4, 2),))
    assert place == ("2g.20gb", 2, 2)


def test_a_fixed_geometry_lends_only_what_exists() -> None:
    there = (MigInstance("3g.40gb", 4, 4, Bytes(39 * GIB), "MIG-a"),)
    device = dataclasses.replace(SLICED, mig_instances=there, mig_fixed=True)
    lease = on_gpu(PartitionRequest(mig_profile="3g.40gb"), device=device)
    assert isinstance(lease, Lease)
    assert lease.memory_bytes < 39 * GIB
    assert isinstance(on_gpu(PartitionRequest(mig_profile="2g.20gb"), device=device), LeaseDenied)
    wait = on_gpu(
        PartitionRequest(mig_profile="3g.40gb"), mig("a-1", "3g.40gb", 4, 4), device=device
    )
    assert isinstance(wait, LeaseDenied)
    assert "held by a-1" in wait.reason


_GEOMETRY = geometry_of("a100-80gb")
assert _GEOMETRY is not None
PROFILES = _GEOMETRY.profiles


@given(
    st.lists(st.sampled_from(PROFILES).flatmap(
        lambda p: st.sampled_from(starts_of(p)).map(lambda start: (p.name, start, p.memory_slices))
    ), max_size=5),
    st.sampled_from([p.name for p in PROFILES]),
)  # fmt: skip
def test_a_slice_is_found_exactly_where_one_fits(wanted: list[Place], name: str) -> None:
    """Brute force over all starts, beside any set of slices that do not overlap."""
    taken: set[int] = set()
    places: list[Place] = []
    for place in wanted:
        covers = set(range(place[1], place[1] + place[2]))
        counts = {p: sum(q[0] == p for q in [*places, place]) for p in {place[0]}}
        limit = next(p.max_instances for p in PROFILES if p.name == place[0])
        if taken.isdisjoint(covers) and counts[place[0]] <= limit:
            taken |= covers
            places.append(place)
    profile = next(p for p in PROFILES if p.name == name)
    possible = [
        start
        for start in starts_of(profile)
        if taken.isdisjoint(range(start, start + profile.memory_slices))
        and sum(p[0] == name for p in places) < profile.max_instances
    ]
    found = free_place(SLICED, name, tuple(places))
    assert (found is not None) == bool(possible)
    if found is not None:
        ours = MigSlice(GPU.id, Bytes(GIB), *found)
        assert not any(overlap(ours, MigSlice(GPU.id, Bytes(GIB), *p)) for p in places)


# -- from a job ------------------------------------------------------------------------------


def job(**params: str) -> Job:
    progress = Progress("waiting", "")
    stored = tuple(sorted(params.items()))
    return Job("j", "profile", "a", JobState.QUEUED, NOW, NOW, progress, stored)


def test_a_stored_job_asks_for_its_partition() -> None:
    assert wish_of_job(job(device_id=GPU.id)) == PartitionRequest()
    assert wish_of_job(job(device_id=GPU.id, sm_percent="30")) == PartitionRequest(sm_percent=30)
    assert wish_of_job(job(device_id=GPU.id, mig_profile="1g.10gb")) == PartitionRequest(
        mig_profile="1g.10gb"
    )
    under_mps = wish_of_job(job(device_id=GPU.id, sm_percent="30"), "a")
    assert under_mps == PartitionRequest(sm_percent=30, isolation_group="a")
    assert wish_of_job(job(device_id=GPU.id), "a") == PartitionRequest()
    cores = wish_of_job(job(device_id="cpu", cores="2", memory_bytes=str(GIB)))
    assert cores == PartitionRequest(cores=2, memory_bytes=GIB)


def test_host_cores_of_one_job_are_never_those_of_another() -> None:
    first = lease_for(GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), most_cores=4)
    assert isinstance(first, Lease)
    assert first.cores == GPU.cores[:4]
    lent = dict.fromkeys(first.cores, "job-1")
    second = lease_for(
        GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), lent_cores=lent, most_cores=4
    )
    assert isinstance(second, Lease)
    assert second.cores == GPU.cores[4:8]
    # Engines that serve share theirs where nothing else is left; jobs do not.
    for left in (GPU.cores[15:], ()):
        busy = [core for core in GPU.cores[4:] if core not in left]
        third = lease_for(
            GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), busy_cores=busy, lent_cores=lent
        )
        assert third == LeaseDenied(
            f"waits for 2 idle host cores near {GPU.id}: others are lent to job-1"
        )
    far = dict.fromkeys((70, 71), "job-2")
    alone = lease_for(
        GPU, PartitionRequest(), room_bytes=GPU_ROOM, held=(), busy_cores=GPU.cores, lent_cores=far
    )
    assert isinstance(alone, Lease)
    assert alone.cores == GPU.cores


def test_host_cores_are_of_one_node_where_it_has_enough() -> None:
    nodes = (GPU.cores[:8], GPU.cores[8:])
    there = dataclasses.replace(GPU, core_nodes=nodes)

    def cores(busy: tuple[int, ...], most: int) -> tuple[int, ...]:
        lease = lease_for(
            there,
            PartitionRequest(),
            room_bytes=GPU_ROOM,
            held=(),
            busy_cores=busy,
            most_cores=most,
        )
        assert isinstance(lease, Lease)
        return lease.cores

    assert cores((), 6) == GPU.cores[:6]
    assert cores((0, 1, 2), 6) == GPU.cores[8:14]
    assert cores((0, 1, 2, 8, 9, 10), 6) == (3, 4, 5, 6, 7, 11)


def test_cores_of_the_cpu_that_a_job_beside_a_gpu_has_are_waited_for() -> None:
    lent = {0: "job-1", 9: "job-1"}
    lease = lease_for(cpu(4), PartitionRequest(cores=3), room_bytes=ROOM, held=(), lent_cores=lent)
    assert isinstance(lease, Lease)
    assert lease.cores == (1, 2, 3)
    wait = lease_for(cpu(4), PartitionRequest(cores=4), room_bytes=ROOM, held=(), lent_cores=lent)
    assert wait == LeaseDenied("waits for 4 free cores of cpu: job-1 holds core 0")


def test_what_a_job_holds_is_not_free_for_replicas() -> None:
    there = dataclasses.replace(cpu(4), core_nodes=((0, 1), (2, 3)))
    lease = CpuCores("cpu", Bytes(4 * GIB), (1, 2))
    (beside,) = devices_beside_leases([there], [lease])
    assert (beside.cores, beside.core_nodes) == ((0, 3), ((0,), (3,)))
    assert beside.free_bytes == there.free_bytes - 4 * GIB
    assert devices_beside_leases([GPU], [lease]) == (GPU,)
    all_cores = dataclasses.replace(lease, cores=(0, 1, 2, 3))
    (beside,) = devices_beside_leases([there], [all_cores])
    assert beside.cordoned  # without cores it would have no limit
    assert beside.free_bytes == there.free_bytes - 4 * GIB
    for alone in (WholeDevice(GPU.id, Bytes(GIB)), MemoryShare(GPU.id, Bytes(GIB))):
        (beside,) = devices_beside_leases([GPU], [alone])
        assert beside.cordoned
    shares = [MpsShare(GPU.id, Bytes(GIB), 20), MpsShare(GPU.id, Bytes(2 * GIB), 30)]
    (beside,) = devices_beside_leases([dataclasses.replace(GPU, max_replicas=5)], shares)
    assert (beside.occupied_sm_percent, beside.max_replicas) == (50, 3)
    assert beside.free_bytes == GPU.free_bytes - 3 * GIB
    slices = MigSlice(GPU.id, Bytes(GIB), "2g.20gb", 2, 2)
    (beside,) = devices_beside_leases([dataclasses.replace(SLICED, occupied_slices=(7,))], [slices])
    assert (beside.occupied_slices, beside.free_bytes) == ((2, 3, 7), GPU.free_bytes)
