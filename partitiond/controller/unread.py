"""Engines that run and whose launch.json cannot be read: they are waited for, and ended. Pure."""

from collections.abc import Iterable
from typing import Final

from partitiond.controller.engines import Engine
from partitiond.core.hardware import SharingMode
from partitiond.core.observation import Unknown
from partitiond.core.partition import MemoryShare, PartitionSize
from partitiond.core.plan import Candidate, Placement
from partitiond.core.profile import ProfileKind
from partitiond.core.units import ZERO_BYTES
from partitiond.ports import EngineHandle

Room = tuple[tuple[str, int | Unknown], ...]

_NO_DEVICE: Final = ""
"""The partition is not known, and so excludes no other; `room_beside` counts its memory."""


def unread_placement(handle: EngineHandle) -> Placement:
    """A placement that no plan wants, so that the engine is drained and never kept."""
    launch = handle.launch
    nothing = PartitionSize(SharingMode.MEMORY, 0)
    candidate = Candidate(
        launch.model_name, "", ProfileKind.ESTIMATED, "", nothing, 1, ZERO_BYTES, ZERO_BYTES,
        capacity_req_per_s=0.0, output_tokens_per_s=0.0,
        ttft_p95_seconds=0.0, tpot_p95_seconds=0.0,
    )  # fmt: skip
    partition = MemoryShare(_NO_DEVICE, ZERO_BYTES)
    return Placement(launch.replica_id, launch.model_name, launch.device_id, partition, candidate)


def is_countable(engine: Engine) -> bool:
    """Whether the proxy's count under the engine's name is the engine's: of one that only its
    folder names, it may be under another name."""
    handle = engine.handle
    return handle is None or not handle.unread or handle.named


def room_beside(engines: Iterable[Engine], room: Room) -> Room:
    """The room that is left beside engines whose partition is not known, by device."""
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
