"""Leases: a partition lent to one profile job, taken only from what nobody holds. Pure."""

import dataclasses
from collections.abc import Sequence
from typing import Final

from partitiond.core.hardware import Device, DeviceKind
from partitiond.core.observation import Unknown
from partitiond.core.partition import CpuCores, Partition, WholeDevice
from partitiond.core.units import GIB, Bytes, format_bytes
from partitiond.ports import Job

LEAST_BYTES: Final = 1 * GIB
"""Below it no engine starts at all; waiting says more than its out-of-memory would."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """What a profile job may use.

    Attributes:
        partition: what nobody else may start on meanwhile.
        cores: host cores for the engine.
    """

    partition: Partition
    cores: tuple[int, ...]

    @property
    def memory_bytes(self) -> int:
        """Memory budget of the job's engine."""
        return self.partition.memory_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Waits:
    """Why a job cannot have its lease now."""

    reason: str


def lease_for(
    device: Device,
    *,
    cores: int | None,
    memory_bytes: int | None,
    room_bytes: int,
    held: Sequence[tuple[str, Partition]],
) -> Lease | Waits:
    """A lease on the device, or what it waits for. It never evicts a replica.

    Args:
        device: where to measure.
        cores: number of cores of the partition on the CPU device; None for all of them.
        memory_bytes: budget asked for; None for all that is not held.
        room_bytes: what all engines of the device may take together.
        held: (name, partition) of running engines and of wanted ones that are still to start;
            what the plan has given away is not lent again.
    """
    beside = [(name, partition) for name, partition in held if partition.device_id == device.id]
    if device.kind is DeviceKind.GPU:
        return _whole(device, memory_bytes, room_bytes, [name for name, _ in beside])
    taken = {core: name for name, p in beside if isinstance(p, CpuCores) for core in p.cores}
    free = tuple(core for core in device.cores if core not in taken)
    wanted = len(device.cores) if cores is None else min(cores, len(device.cores))
    if len(free) < wanted:
        holders = ", ".join(f"{name} holds core {core}" for core, name in sorted(taken.items()))
        return Waits(f"waits for {wanted} free cores of {device.id}: {holders}")
    left = room_bytes - sum(partition.memory_bytes for _, partition in beside)
    budget = min(left, memory_bytes) if memory_bytes is not None else left
    if budget < LEAST_BYTES or (memory_bytes is not None and left < memory_bytes):
        needed = memory_bytes if memory_bytes is not None else LEAST_BYTES
        return Waits(
            f"waits for {format_bytes(needed)} of memory on {device.id}: "
            f"{format_bytes(max(0, left))} are not held"
        )
    chosen = free[:wanted]
    return Lease(CpuCores(device.id, Bytes(budget), chosen), chosen)


def _whole(
    device: Device, memory_bytes: int | None, room_bytes: int, holders: Sequence[str]
) -> Lease | Waits:
    if holders:
        return Waits(f"waits for {device.id} to be free: held by {', '.join(sorted(holders))}")
    budget = min(room_bytes, memory_bytes) if memory_bytes is not None else room_bytes
    if budget < LEAST_BYTES:
        return Waits(f"waits for memory on {device.id}: {format_bytes(budget)} are free")
    return Lease(WholeDevice(device.id, Bytes(budget)), device.cores)


def lease_of(
    job: Job,
    device: Device | None,
    room: int | Unknown | None,
    held: Sequence[tuple[str, Partition]],
) -> Lease | Waits:
    """What a job runs on, by what it was asked with, or what it waits for.

    Args:
        job: a profile job.
        device: the one it names, or None where it is not there.
        room: memory there that nobody holds, in bytes.
        held: who holds which partition.
    """
    params = dict(job.params)
    if device is None or room is None or isinstance(room, Unknown):
        reason = room.reason if isinstance(room, Unknown) else "it is not there"
        return Waits(f"waits for the device {params['device_id']}: {reason}")
    return lease_for(
        device,
        cores=int(params["cores"]) if "cores" in params else None,
        memory_bytes=int(params["memory_bytes"]) if "memory_bytes" in params else None,
        room_bytes=room,
        held=held,
    )
