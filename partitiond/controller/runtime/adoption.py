"""Decides which engines that are found running are adopted, and what unreadable ones become. Pure.

An engine whose launch.json cannot be read finishes its requests, and is ended. If the applied plan
cannot be read, a plan of the adopted engines takes its place.
"""

from collections.abc import Iterable
from typing import Final

from partitiond.controller.runtime.engines import Engine
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MemoryShare, PartitionSize
from partitiond.core.plan.record import Candidate, Certificate, Objective, Placement, Plan, Status
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.engine import EngineHandle
from partitiond.core.replica.observation import Unknown
from partitiond.core.units import ZERO_BYTES

Room = tuple[tuple[str, int | Unknown], ...]

_NO_DEVICE: Final = ""
"""The partition is not known, and so excludes no other; `room_beside` counts its memory."""


def unknown_handles(
    handles: Iterable[EngineHandle], engines: Iterable[Engine]
) -> tuple[EngineHandle, ...]:
    """Return the handles of engines that are not known, and are not being started just now."""
    live = [engine for engine in engines if engine.live]
    known = {(e.handle.host, e.generation) for e in live if e.handle is not None}
    starting = {engine.identity for engine in live if engine.handle is None}
    return tuple(
        handle
        for handle in handles
        if (handle.host, handle.generation) not in known and handle.identity not in starting
    )


def unread_placement(handle: EngineHandle) -> Placement:
    """Return a placement that no plan wants, so that the engine is drained and never kept."""
    launch = handle.launch
    nothing = PartitionSize(SharingMode.MEMORY, 0)
    candidate = Candidate(
        launch.model_name, "", ProfileKind.ESTIMATED, "", nothing, 1, ZERO_BYTES, ZERO_BYTES,
        capacity_req_per_s=0.0, output_tokens_per_s=0.0,
        ttft_p95_seconds=0.0, tpot_p95_seconds=0.0,
    )  # fmt: skip
    partition = MemoryShare(_NO_DEVICE, ZERO_BYTES)
    return Placement(launch.replica_id, launch.model_name, launch.device_id, partition, candidate)


def plan_of_running(
    running: Iterable[Placement], devices: tuple[Device, ...], plan_id: str, now: str
) -> Plan:
    """Return a plan of what runs, to replace one that cannot be read. Nothing is proven of it.

    Args:
        running: of the adopted engines; of two engines of one replica the first is kept.
        devices: as seen now.
        plan_id: of the plan that cannot be read.
        now: ISO 8601, UTC.
    """
    kept: dict[str, Placement] = {}
    for placement in running:
        kept.setdefault(placement.replica_id, placement)
    nothing = Certificate(Objective.MIN_DEVICES, 0.0, 0.0, 0.0, Status.FEASIBLE, "what runs", 0.0)
    return Plan(
        id=plan_id,
        placements=tuple(kept.values()),
        devices=devices,
        forecasts=(),
        unplaced=(),
        certificate=nothing,
        explanation=(f"The applied plan {plan_id} cannot be read; this is what runs.",),
        created_at=now,
    )


def is_unread(engine: Engine) -> bool:
    """Whether what the engine was started with cannot be read."""
    return engine.handle is not None and bool(engine.handle.unread)


def is_countable(engine: Engine) -> bool:
    """Whether the proxy counts the engine's requests under the engine's name. If only its folder
    names the engine, or it was renamed when its host came back, the count may be under another.
    """
    handle = engine.handle
    return handle is None or (handle.named and engine.name == handle.launch.replica_id)


def room_beside(engines: Iterable[Engine], room: Room) -> Room:
    """Return the room that is left beside engines whose partition is not known, by device."""
    foreign: dict[str, int] = {}
    for engine in engines:
        handle = engine.handle
        if engine.live and handle is not None and handle.unread:
            device_id = handle.launch.device_id
            foreign[device_id] = foreign.get(device_id, 0) + handle.launch.memory_bytes
    return tuple(
        (device_id, free if isinstance(free, Unknown) else max(0, free - foreign.get(device_id, 0)))
        for device_id, free in room
    )
