"""Tracks which engine holds which partition, and checks that partitions have their memory."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.core.hardware import partition_checks as checks
from partitiond.core.hardware.device_memory import SLACK_BYTES
from partitiond.core.hardware.kinds import SharingMode, short_device
from partitiond.core.hardware.partition import (
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    ShareUse,
    WholeDevice,
    way_of,
)
from partitiond.core.hardware.partition_checks import GpuUse, Neighbour
from partitiond.core.hardware.room import overlap
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.sleep import asleep_partition
from partitiond.core.units import MIB, format_bytes
from partitiond.devices.partitions.gpus import NvmlGpus

DISPLAY_BYTES: Final = 64 * MIB
"""A display server holds less and any CUDA context more: a process below this computes nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """An engine's partition.

    Attributes:
        used_before: bytes in use on the GPU before the start; None if the engine was found running,
            or another one started, woke or fell asleep beside it.
        starting: whether it is not known yet what the engine takes.
        sleep_level: sleep level of the engine; 0 is awake.
    """

    launch: EngineLaunch
    partition: Partition
    used_before: int | None = None
    starting: bool = False
    sleep_level: int = 0

    @property
    def now(self) -> Partition:
        """What no other engine may take now; of a sleeping engine, what it holds asleep."""
        placement = self.launch.placement
        if self.sleep_level == 0 or placement is None:
            return self.partition
        return asleep_partition(placement, self.sleep_level)


def partition_of(launch: EngineLaunch) -> Partition | None:
    """Return the partition of a launch; None for the whole device, unchanged."""
    if launch.partition is not None:
        return launch.partition
    return launch.placement.partition if launch.placement is not None else None


class Holders:
    """Tracks engines with partitions on this host's devices.

    Args:
        gpus: reads the devices' memory.
        owned: tells the replica id by pid of our engines' processes.
    """

    def __init__(self, gpus: NvmlGpus, owned: Callable[[], Awaitable[Mapping[int, str]]]) -> None:
        self._gpus = gpus
        self._owned = owned
        self._held: dict[str, Holder] = {}

    def put(self, name: str, holder: Holder) -> None:
        """Record that the engine has its partition. What two that start together take cannot be
        told apart by the memory in use.
        """
        self._held[name] = holder
        starting = {n: h for n, h in self._on(holder.partition.device_id) if h.starting}
        if holder.starting and len(starting) > 1:
            self._forget_used_before(holder.partition.device_id)

    def started(self, name: str) -> None:
        """Record that the engine has taken what it takes."""
        if name in self._held:
            self._held[name] = dataclasses.replace(self._held[name], starting=False)

    def pop(self, name: str) -> None:
        """Record that the engine has no partition any more."""
        self._held.pop(name, None)

    def sleeps(self, name: str, level: int) -> None:
        """Reserve only what the engine holds asleep; at level 0 its whole partition again. The
        memory in use tells no more what those that start beside it take.
        """
        there = self._held.get(name)
        if there is not None:
            self._held[name] = dataclasses.replace(there, sleep_level=level)
            self._forget_used_before(there.partition.device_id)

    def sleeper(self, name: str) -> Holder | None:
        """Return the engine if it sleeps, else None."""
        there = self._held.get(name)
        return there if there is not None and there.sleep_level else None

    def require_mode(self, name: str, partition: Partition) -> None:
        """Check that the mode fits the device's other engines. Different modes exclude each other,
        as do isolation groups under MPS; a whole device excludes everything, a GPU instance holds
        one engine. Raises DeviceError."""
        for other, there in self._on(partition.device_id, without=name):
            (mode, group), mine = way_of(there.now), way_of(partition)[1]
            both_mig = isinstance(partition, MigSlice) and isinstance(there.partition, MigSlice)
            if both_mig and overlap(partition, there.partition):
                raise DeviceError(
                    f"{other} has the memory slices of "
                    f"{short_device(partition.device_id)} that {name} is for.",
                    hint="They are given back once that engine is gone; the start is tried again.",
                    facts={"device": partition.device_id, "holder": other},
                )
            if mode is not partition.mode or mode is SharingMode.WHOLE:
                raise DeviceError(
                    f"{short_device(partition.device_id)} runs {other} in the mode {mode.value!r}; "
                    f"{name} is for {partition.mode.value!r}.",
                    hint="A GPU changes its mode when it is empty: stop what runs there first.",
                    facts={"device": partition.device_id, "holder": other, "mode": mode.value},
                )
            if group != mine:
                raise DeviceError(
                    f"the MPS daemon of {short_device(partition.device_id)} serves {other} of the "
                    f"isolation group {group!r}; {name} is of {mine!r}.",
                    hint="It serves another group once the GPU is empty: stop what runs there.",
                    facts={"device": partition.device_id, "holder": other, "group": group},
                )

    async def use(self, device_id: str) -> GpuUse:
        """Return the device's memory use now. Raises DeviceError."""
        return await asyncio.to_thread(self._gpus.use, device_id)

    async def require_room(
        self, name: str, partition: Partition, use: GpuUse, already: int = 0
    ) -> None:
        """Check that the partition's memory is free beside what other engines were promised.

        Args:
            use: memory use of the device now.
            already: bytes that the engine itself holds on the device.

        Raises:
            DeviceError: the memory is not free.
        """
        owners = await self._owned()
        if isinstance(partition, WholeDevice):
            _require_empty(partition.device_id, use, owners.keys())
        neighbours = self._neighbours(partition.device_id, use, owners, without=name)
        room = checks.room_bytes(use, neighbours) + already
        if room < partition.memory_bytes:
            raise DeviceError(
                f"{name} needs {format_bytes(partition.memory_bytes)} on "
                f"{short_device(partition.device_id)}, "
                f"where {format_bytes(max(0, room))} are free beside what "
                f"{len(neighbours)} engine(s) there were promised.",
                hint="See who holds memory there with `partitiond devices`; once it is gone the "
                "start succeeds, or `partitiond plan` finds another place.",
                facts={
                    "device": partition.device_id,
                    "bytes_asked": partition.memory_bytes,
                    "bytes_free": use.free_bytes,
                    "bytes_promised": checks.promised_bytes(neighbours),
                },
            )

    async def overshoot(self, name: str, partition: Partition) -> str:
        """Return why a ready engine may not stay; empty if it may. Raises DeviceError."""
        use = await asyncio.to_thread(self._gpus.use, partition.device_id)
        owners = await self._owned()
        taken = use.held_by([pid for pid, owner in owners.items() if owner == name])
        before = self._held[name].used_before if name in self._held else None
        if taken is None and before is not None:
            # In a container the driver may not tell whose memory it is. If the engine started
            # alone, the memory that was added meanwhile is its own.
            taken = use.used_bytes - before
        if taken is None:
            return ""
        neighbours = self._neighbours(partition.device_id, use, owners, without=name)
        return checks.overshoot(partition.memory_bytes, taken, use, neighbours)

    async def shares(self) -> list[ShareUse]:
        """Return what engines in shares of a device's memory hold, as far as drivers tell."""
        watched = {
            name: there.now
            for name, there in self._held.items()
            if isinstance(there.partition, MemoryShare | MpsShare)
        }
        owners = await self._owned() if watched else {}
        found = []
        for device_id in sorted({share.device_id for share in watched.values()}):
            try:
                use = await self.use(device_id)
            except DeviceError:
                continue  # whoever looks at devices says so
            for name, share in watched.items():
                held = use.held_by([pid for pid, owner in owners.items() if owner == name])
                if share.device_id == device_id and held is not None:
                    found.append(ShareUse(name, share.memory_bytes, held))
        return found

    def _forget_used_before(self, device_id: str) -> None:
        for name, there in self._on(device_id):
            if there.starting:
                self._held[name] = dataclasses.replace(there, used_before=None)

    def _on(self, device_id: str, *, without: str = "") -> list[tuple[str, Holder]]:
        return [
            (name, there)
            for name, there in self._held.items()
            if there.partition.device_id == device_id and name != without
        ]

    def _neighbours(
        self, device_id: str, use: GpuUse, owners: Mapping[int, str], *, without: str
    ) -> list[Neighbour]:
        return [
            Neighbour(
                name,
                there.now.memory_bytes,
                use.held_by([pid for pid, owner in owners.items() if owner == name]),
            )
            for name, there in self._on(device_id, without=without)
        ]


def _require_empty(device_id: str, use: GpuUse, own: Collection[int]) -> None:
    """Raise DeviceError if another process computes on the GPU.

    Memory in use counts as a process only if processes cannot be listed: on a GPU whose memory is
    coherent with its host's (Grace), used memory includes the host's own pages. The caller checks
    in any case whether the free memory is enough.
    """
    there = [p for p in use.processes if p.used_bytes is None or p.used_bytes > DISPLAY_BYTES]
    if not there and (use.all_told or use.used_bytes <= SLACK_BYTES):
        return
    named = ", ".join(f"{p.pid}{' (an engine of ours)' if p.pid in own else ''}" for p in there)
    raise DeviceError(
        f"{short_device(device_id)} is wanted as a whole, and "
        f"{format_bytes(use.used_bytes)} of it are used by "
        f"{f'process {named}' if named else 'processes that cannot be seen from here'}.",
        hint="Wait until they end, or end them; `partitiond devices` names them.",
        facts={"device": device_id, "pids": [p.pid for p in there]},
    )
