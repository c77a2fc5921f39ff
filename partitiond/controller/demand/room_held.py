"""Computes for `core.replica.step_down` which room models hold, need, and can give up."""

from collections.abc import Collection, Iterable, Mapping, Sequence
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
from partitiond.core.replica.observation import Unknown
from partitiond.core.replica.sleep import STOPPED, asleep_partition, host_bytes
from partitiond.core.replica.states import ReplicaState
from partitiond.core.replica.step_down import NO_ROOM, Room, RoomNeed, StepDown

SM_UNITS = 100
"""SM percent of a GPU."""
MIN_START_SECONDS: Final = 0.1
"""Least duration of a start in the price of an eviction, so that none is free."""
_ALL: Final = Room(1 << 62)
"""More bytes than any device has."""

Rooms = Mapping[str, Room]
"""Room by place: a device, or a host (`host_places`)."""


def room_of(partition: Partition) -> Room:
    """Return what a partition takes of its device."""
    match partition:
        case CpuCores():
            return Room(partition.memory_bytes, len(partition.cores))
        case MpsShare():
            return Room(partition.memory_bytes, partition.sm_percent)
        case _:
            return Room(partition.memory_bytes)


def host_places(devices: Iterable[Device]) -> dict[str, str]:
    """Return by device the place of its host's memory: the CPU device there, if any."""
    there = list(devices)
    cpus = {device.host: device.id for device in there if device.kind is DeviceKind.CPU}
    return {d.id: cpus.get(d.host, f"memory of {d.host or 'this host'}") for d in there}


def rooms_of(placement: Placement, level: int, places: Mapping[str, str]) -> Rooms:
    """Return what an engine takes, awake (level 0) or asleep, of its device and of its host."""
    if level == STOPPED:
        return {}
    partition = asleep_partition(placement, level) if level else placement.partition
    on_host = host_bytes(placement, level) if level else placement.candidate.host_memory_bytes
    return _plus(
        {partition.device_id: room_of(partition)},
        {places.get(partition.device_id, partition.device_id): Room(on_host)},
    )


def _plus(these: Rooms, those: Rooms) -> dict[str, Room]:
    both = [*these, *(place for place in those if place not in these)]
    return {place: these.get(place, NO_ROOM) + those.get(place, NO_ROOM) for place in both}


def _minus(these: Rooms, those: Rooms) -> dict[str, Room]:
    return _plus(these, {place: NO_ROOM - room for place, room in those.items()})


def need_of(placement: Placement, level: int, places: Mapping[str, str]) -> RoomNeed:
    """Return what a replica takes to be awake where it was, beside what it holds at a level."""
    awake = rooms_of(placement, 0, places)
    return RoomNeed(tuple(_minus(awake, rooms_of(placement, level, places)).items()))


def needs_of(candidates: Iterable[Candidate], devices: Sequence[Device]) -> tuple[RoomNeed, ...]:
    """Return the least that one replica takes, by device: its hardware's smallest candidate."""
    least: dict[str, tuple[int, int, int]] = {}
    for candidate in candidates:
        size = _units(candidate.size), candidate.memory_bytes, candidate.host_memory_bytes
        least[candidate.hardware] = min(size, least.get(candidate.hardware, size))
    places = host_places(devices)
    found = []
    for device in devices:
        if device.hardware in least and not device.cordoned:
            units, memory, on_host = least[device.hardware]
            takes = _plus({device.id: Room(memory, units)}, {places[device.id]: Room(on_host)})
            found.append(RoomNeed(tuple(takes.items())))
    return tuple(found)


def _units(size: PartitionSize) -> int:
    match size.mode:
        case SharingMode.CORES:
            return size.cores
        case SharingMode.MPS:
            return size.sm_percent
        case _:
            return 0


def one_byte_more(needs: Iterable[RoomNeed], free: Rooms) -> tuple[RoomNeed, ...]:
    """Return needs, one on each device of those, that are met once anything there is given up."""
    devices = dict.fromkeys(need.device_id for need in needs)
    more = {d: Room(max(0, free[d].memory_bytes) + 1) for d in devices}
    return tuple(RoomNeed((own,)) for own in more.items())


def level_held(engine: Engine) -> int:
    """Return the level at which an engine holds room: 0 if awake, STOPPED once it is ending."""
    if not engine.live or engine.state in (ReplicaState.DRAINING, ReplicaState.STOPPING):
        return STOPPED
    return max(1, engine.sleep_level) if engine.state is ReplicaState.SLEEPING else 0


def held_by_model(
    desired: Sequence[Placement],
    engines: Sequence[Engine],
    asleep: Mapping[str, int],
    places: Mapping[str, str],
) -> dict[str, Rooms]:
    """Return what each model holds or was promised, by place; nothing if the model goes to zero.

    An engine that is ending counts as gone: a model that waits for its room waits for that, too.
    """
    found: dict[str, Rooms] = {}

    def add(placement: Placement, level: int) -> None:
        own = rooms_of(placement, level, places)
        found[placement.model] = _plus(found.get(placement.model, {}), own)

    for engine in engines:
        level = level_held(engine)
        if level != STOPPED and asleep.get(engine.placement.model, 0) != STOPPED:
            add(engine.placement, level)
    for placement in desired:
        if placement.model in asleep:
            continue
        if not any(engine.live and is_engine_of(engine, placement) for engine in engines):
            add(placement, 0)
    return found


def steps_of(
    holds: Rooms,
    awake: Sequence[Placement],
    places: Mapping[str, str],
    *,
    stop_seconds: float,
    wake_seconds: float,
) -> tuple[StepDown, ...]:
    """Return how a model can step down, lightest first: asleep where that frees room, and stopped.

    A sleeping engine keeps its MIG slice, and it keeps all if its sleeping footprint is unknown.

    Args:
        holds: all that it holds now.
        awake: places of its engines that can fall asleep; none if it sleeps already.
        places: as of `host_places`.
        stop_seconds: how much longer its next request waits once it is stopped.
        wake_seconds: how much longer its next request waits once it sleeps.
    """
    frees: Rooms = {}
    for placement in awake:
        own = _minus(rooms_of(placement, 0, places), rooms_of(placement, 1, places))
        frees = _plus(frees, own)
    sleep = StepDown(1, wake_seconds, tuple(frees.items()))
    stop = StepDown(STOPPED, max(MIN_START_SECONDS, stop_seconds), tuple(holds.items()))
    return (sleep, stop) if any(room.is_gain for room in frees.values()) else (stop,)


def _lent(lease: Partition) -> Room:
    """Return what a profile job keeps from replicas: a whole GPU, if it measures alone there."""
    if isinstance(lease, WholeDevice | MemoryShare):
        return _ALL
    return room_of(lease)


def free_room(
    devices: Sequence[Device],
    room: Mapping[str, "int | Unknown"],
    host_memory: Mapping[str, int],
    held: Iterable[Rooms],
    leases: Collection[Partition],
) -> Rooms:
    """Return by place what is free beside all of that; less than nothing where it is not known.

    Args:
        room: memory for engines by device.
        host_memory: for engines, by host; it counts where no CPU device tells it.
    """
    free: dict[str, Room] = {}
    for device in devices:
        known = room.get(device.id, Unknown("not there"))
        units = len(device.cores) if device.kind is DeviceKind.CPU else SM_UNITS
        free[device.id] = NO_ROOM - _ALL if isinstance(known, Unknown) else Room(known, units)
    places = host_places(devices)
    for device in devices:
        told = host_memory.get(device.host)
        free.setdefault(places[device.id], _ALL if told is None else Room(told))
    for own in (*held, *({lease.device_id: _lent(lease)} for lease in leases)):
        free = _minus(free, own)
    return free
