"""Leases partitions to profile jobs, only from what no engine and no other job holds. Pure.

A GPU has one sharing mode at a time. A whole GPU and a memory share of it are lent only while no
engine is on it: compute is time-sliced there, and a neighbour would be measured, too. A share
under MPS may be lent beside other MPS shares of the same isolation group, and a MIG slice beside
other slices.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from partitiond.core.hardware.hosts import on_each_host
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.mig.geometry import (
    Place,
    covered_slices,
    geometry_on,
    instance_bytes,
    place_of,
    usable_instances,
)
from partitiond.core.performance.interference import MAX_REPLICAS_PER_DEVICE, mode_overhead_bytes
from partitiond.core.profile.jobs import Job
from partitiond.core.units import GIB, Bytes, format_bytes

LEAST_BYTES: Final = 1 * GIB
"""No engine starts with less; a job that waits says more than an out-of-memory error would."""
LEAST_HOST_CORES: Final = 2
"""Least host cores of an engine on a GPU that is measured beside jobs on other devices: one core
feeds the GPU, and one takes requests in."""

Held = Sequence[tuple[str, Partition]]
"""Names of holders, each with the partition that it holds."""
_NOBODY: Final[Mapping[int, str]] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionRequest:
    """The partition a job asks for.

    Attributes:
        cores: number of cores on the CPU device; None for all of them.
        memory_bytes: budget; None asks for all that is not held. On a GPU, a budget without
            `sm_percent` and `mig_profile` asks for a memory share.
        sm_percent: share of the SMs under MPS; None asks for no MPS.
        mig_profile: a MIG slice of this MIG profile; empty asks for none.
        isolation_group: of the model, for a share under MPS.
    """

    cores: int | None = None
    memory_bytes: int | None = None
    sm_percent: int | None = None
    mig_profile: str = ""
    isolation_group: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A partition and host cores that a profile job may use.

    Attributes:
        partition: no other engine may start on it meanwhile.
        cores: host cores for the engine.
        beside: replicas that run on the same device meanwhile; the profile's notes name them.
        shares_cores: whether serving engines use these host cores, too, because none was idle.
    """

    partition: Partition
    cores: tuple[int, ...]
    beside: tuple[str, ...] = ()
    shares_cores: bool = False

    @property
    def memory_bytes(self) -> int:
        """Memory budget of the job's engine."""
        return self.partition.memory_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseDenied:
    """The reason why a job cannot have its lease now."""

    reason: str


def lease_for(
    device: Device,
    wish: PartitionRequest,
    *,
    room_bytes: int,
    held: Held,
    busy_cores: Collection[int] = (),
    lent_cores: Mapping[int, str] = _NOBODY,
    most_cores: int | None = None,
) -> Lease | LeaseDenied:
    """Return a lease on the device, or what the job waits for. No replica is evicted for a lease.

    Args:
        device: where to measure.
        wish: the partition asked for.
        room_bytes: what all engines of the device may take together.
        held: (name, partition) of running engines, and of wanted engines that are still to start:
            the plan has given their partitions away.
        busy_cores: host cores of engines that run on any device.
        lent_cores: host cores of jobs on other devices, with the jobs' ids; jobs share no cores.
        most_cores: most host cores for an engine on a GPU; None for all that are idle.
    """
    beside = [(name, partition) for name, partition in held if partition.device_id == device.id]
    if device.kind is DeviceKind.CPU:
        return _cores(device, wish, room_bytes, beside, lent_cores)
    cores = _host_cores(device, busy_cores, lent_cores, most_cores)
    if isinstance(cores, LeaseDenied):
        return cores
    if wish.mig_profile:
        lease = _mig(device, wish, beside, cores)
    elif wish.sm_percent is not None:
        lease = _mps(device, wish, room_bytes, beside, cores)
    else:
        lease = _alone(device, wish, room_bytes, beside, cores)
    if isinstance(lease, LeaseDenied) or set(cores).isdisjoint(busy_cores):
        return lease
    return dataclasses.replace(lease, shares_cores=True)


def wish_of_job(job: Job, isolation_group: str = "") -> PartitionRequest:
    """Return the partition that a profile job asks for; the group is that of its model."""
    params = dict(job.params)
    group = isolation_group if "sm_percent" in params else ""

    def whole(name: str) -> int | None:
        return int(params[name]) if name in params else None

    wanted = whole("cores"), whole("memory_bytes"), whole("sm_percent")
    return PartitionRequest(*wanted, params.get("mig_profile", ""), group)


def devices_beside_leases(
    devices: Sequence[Device], leases: Sequence[Partition]
) -> tuple[Device, ...]:
    """Return the devices as replicas may use them: without what is lent to running jobs."""
    return tuple(_beside_leases(device, leases) for device in devices)


def _beside_leases(device: Device, leases: Sequence[Partition]) -> Device:
    for lease in leases:
        if lease.device_id == device.id:
            device = _beside_lease(device, lease)
    return device


def _beside_lease(device: Device, lease: Partition) -> Device:
    """Return the device without one lease; a job that measures alone on a GPU takes all of it."""
    left = Bytes(max(0, device.free_bytes - lease.memory_bytes))
    match lease:
        case CpuCores():
            cores = cores_without(device.cores, lease.cores)
            if not cores:  # a device without listed cores would count as one without a limit
                why = "a profile is being measured on its cores"
                return dataclasses.replace(
                    device, free_bytes=left, cordoned=True, cordon_reason=why
                )
            nodes = tuple(cores_without(node, lease.cores) for node in device.core_nodes)
            return dataclasses.replace(device, free_bytes=left, cores=cores, core_nodes=nodes)
        case MpsShare():
            clients = device.max_replicas
            return dataclasses.replace(
                device,
                free_bytes=left,
                occupied_sm_percent=device.occupied_sm_percent + lease.sm_percent,
                max_replicas=None if clients is None else max(0, clients - 1),
                mps_group=lease.isolation_group,
            )
        case MigSlice():
            slices = range(lease.slice_start, lease.slice_start + lease.slice_count)
            occupied = tuple(sorted({*device.occupied_slices, *slices}))
            return dataclasses.replace(device, occupied_slices=occupied)
        case WholeDevice() | MemoryShare():
            return dataclasses.replace(
                device, cordoned=True, cordon_reason="a profile is being measured on it"
            )


def lent_there(
    device: Device, devices: Sequence[Device], leases: Iterable[Lease]
) -> tuple[int, ...]:
    """Return the cores of this device's host that are lent to profile jobs."""
    there = on_each_host([device, *devices], leases, lambda lease: lease.partition.device_id)
    return tuple(core for lease in there[device.host] for core in lease.cores)


def cores_without(cores: Sequence[int], lent: Collection[int]) -> tuple[int, ...]:
    """The cores that are not lent, in their order."""
    return tuple(core for core in cores if core not in lent)


# -- the CPU ---------------------------------------------------------------------------------


def _cores(
    device: Device,
    wish: PartitionRequest,
    room_bytes: int,
    beside: Held,
    lent_cores: Mapping[int, str],
) -> Lease | LeaseDenied:
    taken = {core: name for name, p in beside if isinstance(p, CpuCores) for core in p.cores}
    taken |= {core: name for core, name in lent_cores.items() if core in device.cores}
    free = tuple(core for core in device.cores if core not in taken)
    wanted = len(device.cores) if wish.cores is None else min(wish.cores, len(device.cores))
    if len(free) < wanted:
        holders = ", ".join(f"{name} holds core {core}" for core, name in sorted(taken.items()))
        return LeaseDenied(f"waits for {wanted} free cores of {device.short_id}: {holders}")
    budget = _budget(device, wish, room_bytes, beside)
    if isinstance(budget, LeaseDenied):
        return budget
    chosen = free[:wanted]
    return Lease(CpuCores(device.id, Bytes(budget), chosen), chosen)


def _budget(
    device: Device, wish: PartitionRequest, room_bytes: int, beside: Held
) -> int | LeaseDenied:
    """Return the memory that is asked for, or all that is not held."""
    left = room_bytes - sum(partition.memory_bytes for _, partition in beside)
    asked = wish.memory_bytes
    budget = left if asked is None else min(left, asked)
    if budget < LEAST_BYTES or (asked is not None and left < asked):
        needed = LEAST_BYTES if asked is None else asked
        return LeaseDenied(
            f"waits for {format_bytes(needed)} of memory on {device.short_id}: "
            f"{format_bytes(max(0, left))} are not held"
        )
    return budget


# -- GPUs ------------------------------------------------------------------------------------


def _host_cores(
    device: Device,
    busy_cores: Collection[int],
    lent_cores: Mapping[int, str],
    most_cores: int | None,
) -> tuple[int, ...] | LeaseDenied:
    """Return host cores that no engine uses, of one NUMA node if a node has enough of them.

    If no core is idle, return all cores of the device, which serving engines then use, too. Two
    jobs never share cores: each would measure the other.
    """
    busy = {*busy_cores, *lent_cores}
    idle = [core for core in device.cores if core not in busy]
    jobs = sorted({lent_cores[core] for core in device.cores if core in lent_cores})
    if jobs and len(idle) < LEAST_HOST_CORES:
        return LeaseDenied(
            f"waits for {LEAST_HOST_CORES} idle host cores near {device.short_id}: "
            f"others are lent to {' and '.join(jobs)}"
        )
    if not idle:
        return device.cores
    wanted = min(len(idle), most_cores or len(idle))
    nodes = ([core for core in node if core in idle] for node in device.core_nodes)
    return tuple(next((node for node in nodes if len(node) >= wanted), idle)[:wanted])


def _alone(
    device: Device, wish: PartitionRequest, room_bytes: int, beside: Held, cores: tuple[int, ...]
) -> Lease | LeaseDenied:
    """Lease the whole GPU, or a share of its memory, while nothing else computes on the GPU."""
    if beside:
        return LeaseDenied(f"waits for {device.short_id} to be free: held by {_names(beside)}")
    if SharingMode.WHOLE not in device.modes:
        return LeaseDenied(
            f"waits for {device.short_id} to leave MIG mode; or ask for one of its slices"
        )
    asked = wish.memory_bytes
    budget = room_bytes if asked is None else min(room_bytes, asked)
    if budget < LEAST_BYTES:
        return LeaseDenied(
            f"waits for memory on {device.short_id}: {format_bytes(budget)} are free"
        )
    partition: Partition = WholeDevice(device.id, Bytes(budget))
    if asked is not None:
        if asked > room_bytes:
            return _budget_waits(device, asked, room_bytes)
        partition = MemoryShare(device.id, Bytes(budget))
    return Lease(partition, cores)


def _budget_waits(device: Device, asked: int, left: int) -> LeaseDenied:
    return LeaseDenied(
        f"waits for {format_bytes(asked)} of memory on {device.short_id}: "
        f"{format_bytes(max(0, left))} are not held"
    )


def _mps(
    device: Device, wish: PartitionRequest, room_bytes: int, beside: Held, cores: tuple[int, ...]
) -> Lease | LeaseDenied:
    """Lease a share under MPS; only other MPS shares may be held on the GPU."""
    assert wish.sm_percent is not None  # `lease_for` calls this only for a share under MPS
    others = [(name, p) for name, p in beside if not isinstance(p, MpsShare)]
    if others:
        return LeaseDenied(
            f"waits for {device.short_id} to be empty or in MPS mode: held by {_names(others)}"
        )
    shares = [p for _, p in beside if isinstance(p, MpsShare)]
    groups = {share.isolation_group for share in shares} | ({device.mps_group} - {None})
    if groups - {wish.isolation_group}:
        return LeaseDenied(
            f"waits for the MPS daemon of {device.short_id}, which serves one isolation group and "
            f"not that of the model now{_by(beside)}"
        )
    if SharingMode.MPS not in device.modes:
        return LeaseDenied(
            f"waits for {device.short_id} to allow MPS: it does not now (MIG may be on)"
        )
    left = 100 - sum(share.sm_percent for share in shares) - device.occupied_sm_percent
    if wish.sm_percent > left:
        return LeaseDenied(
            f"waits for {wish.sm_percent} % of the SMs of {device.short_id}: "
            f"{max(0, left)} % are not "
            f"held{_by(beside)}"
        )
    most = min(MAX_REPLICAS_PER_DEVICE[SharingMode.MPS], device.max_replicas or len(shares) + 1)
    if len(shares) >= most:
        return LeaseDenied(
            f"waits for one of the {most} MPS clients of {device.short_id}{_by(beside)}"
        )
    overhead = mode_overhead_bytes(SharingMode.MPS)
    budget = _budget(device, wish, room_bytes - overhead, beside)
    if isinstance(budget, LeaseDenied):
        return budget
    partition = MpsShare(
        device.id, Bytes(budget), wish.sm_percent, isolation_group=wish.isolation_group
    )
    return Lease(partition, cores, tuple(sorted(name for name, _ in beside)))


def _mig(
    device: Device, wish: PartitionRequest, beside: Held, cores: tuple[int, ...]
) -> Lease | LeaseDenied:
    """Lease a slice of the MIG profile; only other slices may be held on the GPU."""
    others = [(name, p) for name, p in beside if not isinstance(p, MigSlice)]
    if others:
        return LeaseDenied(
            f"waits for {device.short_id} to be empty or in MIG mode: held by {_names(others)}"
        )
    if SharingMode.MIG not in device.modes:
        return LeaseDenied(f"waits for {device.short_id} to allow MIG: it does not now")
    held = tuple(_place(p) for _, p in beside if isinstance(p, MigSlice))
    found = free_place(device, wish.mig_profile, held)
    if found is None:
        return LeaseDenied(
            f"waits for a free place for {wish.mig_profile} on {device.short_id}{_by(beside)}"
        )
    name, start, count = found
    room = _slice_bytes(device, found)
    budget = room if wish.memory_bytes is None else wish.memory_bytes
    if budget > room or budget < LEAST_BYTES:
        return _budget_waits(device, budget, room)
    partition = MigSlice(device.id, Bytes(budget), name, start, count)
    return Lease(partition, cores, tuple(sorted(holder for holder, _ in beside)))


def free_place(device: Device, mig_profile: str, held: Sequence[Place]) -> Place | None:
    """Return a place for a slice of this MIG profile beside what is held; None if there is none.

    An existing instance that is not used is preferred, because nothing has to be changed for it.
    If the geometry may not be changed, only such instances are considered.

    Args:
        device: with its existing instances, and the slices that others hold.
        mig_profile: of the slice.
        held: places of our own replicas.
    """
    taken = covered_slices(tuple(held))
    idle = [
        place
        for instance in usable_instances(device)
        if instance.mig_profile == mig_profile
        if taken.isdisjoint(covered_slices((place := place_of(instance),)))
    ]
    if idle:
        return min(idle, key=lambda place: place[1])
    geometry = geometry_on(device)
    if geometry is None or geometry.index(mig_profile) is None:
        return None
    counts = collections.Counter([*(name for name, _, _ in held), mig_profile])
    places = geometry.places(counts, tuple(held))
    if places is None:
        return None
    (added,) = collections.Counter(places) - collections.Counter(held)
    return added


def _place(partition: MigSlice) -> Place:
    return partition.mig_profile, partition.slice_start, partition.slice_count


def _slice_bytes(device: Device, place: Place) -> int:
    """Return the memory for a footprint in a slice, by the instance if any, else the catalog."""
    for instance in device.mig_instances:
        if (instance.mig_profile, instance.slice_start) == place[:2] and instance.memory_bytes:
            return max(0, instance.memory_bytes - headroom_bytes(instance.memory_bytes))
    geometry = geometry_on(device)
    position = geometry.index(place[0]) if geometry is not None else None
    assert geometry is not None  # `free_place` found the place in it
    assert position is not None
    return instance_bytes(geometry.profiles[position])


def _names(holders: Held) -> str:
    return ", ".join(sorted(name for name, _ in holders))


def _by(holders: Held) -> str:
    return f" (held by {_names(holders)})" if holders else ""
