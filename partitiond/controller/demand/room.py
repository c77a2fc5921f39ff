"""Computes for `core.replica.eviction` which room models hold, and what one at zero needs."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.controller.runtime.engine_matching import is_engine_of
from partitiond.controller.runtime.engines import Engine
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MpsShare,
    Partition,
    PartitionSize,
    WholeDevice,
)
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.replica.device_room import holds
from partitiond.core.replica.eviction import NO_ROOM, Room, RoomNeed
from partitiond.core.replica.observation import Unknown
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.sleep import held as held_asleep
from partitiond.core.replica.states import ReplicaState

SM_UNITS = 100
"""SM percent of a GPU."""
_ALL: Final = Room(1 << 62)
"""More bytes than any device has."""


def room_of(partition: Partition) -> Room:
    """Return what a partition takes of its device."""
    match partition:
        case CpuCores():
            return Room(partition.memory_bytes, len(partition.cores))
        case MpsShare():
            return Room(partition.memory_bytes, partition.sm_percent)
        case _:
            return Room(partition.memory_bytes)


def needs_of(candidates: Iterable[Candidate], devices: Sequence[Device]) -> tuple[RoomNeed, ...]:
    """Return the least that one replica takes, by device: its hardware's smallest candidate."""
    by_hardware: dict[str, Room] = {}
    for candidate in candidates:
        room = Room(candidate.memory_bytes, _units(candidate.size))
        before = by_hardware.get(candidate.hardware)
        if before is None or (room.units, room.memory_bytes) < (before.units, before.memory_bytes):
            by_hardware[candidate.hardware] = room
    return tuple(
        RoomNeed(device.id, by_hardware[device.hardware])
        for device in devices
        if device.hardware in by_hardware and not device.cordoned
    )


def _units(size: PartitionSize) -> int:
    match size.mode:
        case SharingMode.CORES:
            return size.cores
        case SharingMode.MPS:
            return size.sm_percent
        case _:
            return 0


def held_by_model(
    desired: Sequence[Placement], engines: Sequence[Engine], asleep: Mapping[str, int]
) -> dict[str, dict[str, Room]]:
    """Return what each model holds or was promised, by device; nothing if the model goes to zero.

    An engine that is ending counts as gone: a model that waits for its room waits for that, too.
    """
    found: dict[str, dict[str, Room]] = {}

    def add(model: str, partition: Partition) -> None:
        own = found.setdefault(model, {})
        own[partition.device_id] = own.get(partition.device_id, NO_ROOM) + room_of(partition)

    leaving = (ReplicaState.DRAINING, ReplicaState.STOPPING)
    for engine in engines:
        going = asleep.get(engine.placement.model, 0) == STOPPED or engine.state in leaving
        if engine.live and not going:
            add(engine.placement.model, holds(engine.observed()))
    for placement in desired:
        if placement.model in asleep:
            continue
        if not any(engine.live and is_engine_of(engine, placement) for engine in engines):
            add(placement.model, placement.partition)
    return found


def level_to_go_to(placements: Iterable[Placement], *, can_sleep: bool) -> int:
    """Return the level at which a model makes room: asleep if that frees room, else stopped.

    A sleeping engine keeps its MIG slice, and it keeps all if its sleeping footprint is unknown.

    Args:
        placements: of its engines.
        can_sleep: whether its engines have a sleep mode, and do not sleep yet.
    """
    frees = any(room_of(held_asleep(p, 1)) != room_of(p.partition) for p in placements)
    return 1 if can_sleep and frees else STOPPED


def _lent(lease: Partition) -> Room:
    """Return what a profile job keeps from replicas: a whole GPU, if it measures alone there."""
    if isinstance(lease, WholeDevice | MemoryShare):
        return _ALL
    return room_of(lease)


def free_room(
    devices: Sequence[Device],
    room: Mapping[str, "int | Unknown"],
    held: Iterable[Mapping[str, Room]],
    leases: Collection[Partition],
) -> Callable[[str], Room]:
    """Return a function of a device: what is free beside all of that; nothing if not known."""
    units = {
        device.id: len(device.cores) if device.kind is DeviceKind.CPU else SM_UNITS
        for device in devices
    }
    taken: dict[str, Room] = {}
    for own in held:
        for device_id, part in own.items():
            taken[device_id] = taken.get(device_id, NO_ROOM) + part
    for lease in leases:
        taken[lease.device_id] = taken.get(lease.device_id, NO_ROOM) + _lent(lease)

    def free(device_id: str) -> Room:
        known = room.get(device_id, Unknown("not there"))
        if isinstance(known, Unknown):
            return Room(-1, -1)
        used = taken.get(device_id, NO_ROOM)
        return Room(known - used.memory_bytes, units.get(device_id, 0) - used.units)

    return free
