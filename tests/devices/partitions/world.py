"""Holds devices in memory that count every touch, so that a test can crash or refuse at any."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.hardware.partition import MemoryShare, MigSlice, MpsShare, Partition
from partitiond.core.hardware.partition_checks import GpuUse
from partitiond.core.mig.geometry import Place
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.units import GIB, Bytes
from partitiond.devices.partitions import DeviceJournal, HostPartitions

GPU = "GPU-0"
OPERATORS: Place = ("1g.10gb", 6, 1)
"""An instance that an operator made."""
TOTAL = 80 * GIB
RESERVED = GIB


class Crashed(BaseException):
    """The daemon's process is gone from here on."""


@dataclasses.dataclass
class Gpu:
    """One device.

    Attributes:
        clients: of its MPS daemon.
        host_bytes: in use by the host's own pages, as where its memory is coherent with the host's.
        all_told: processes can be told apart from here; else none is.
    """

    mig: bool = False
    instances: set[Place] = dataclasses.field(default_factory=set)
    daemon: bool = False
    servers: int = 0
    fault: str = ""
    use: dict[int, int] = dataclasses.field(default_factory=dict)
    told: bool = True
    clients: list[int] = dataclasses.field(default_factory=list)
    host_bytes: int = 0
    all_told: bool = True


class World:
    """Some GPUs, and what is going to happen when they are touched."""

    def __init__(self, count: int = 2) -> None:
        self.gpus = {f"GPU-{n}": Gpu() for n in range(count)}
        self.crash_in: int | None = None
        self.refuse_in: int | None = None
        self.living: dict[int, str] = {}
        self.lost: list[DeviceFault] = []
        self.terminated: list[int] = []
        self.modes: dict[str, int] = {}
        self.deaf = False

    def touch(self, what: str) -> None:
        """Before and after each effect."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crashed(what)
        if self.refuse_in is not None:
            self.refuse_in -= 1
            if self.refuse_in < 0:
                self.refuse_in = None
                raise DeviceError(f"refused to {what}.")

    def picture(self) -> dict[str, tuple[object, ...]]:
        """What is on the devices."""
        return {
            name: (gpu.mig, frozenset(gpu.instances), gpu.daemon, gpu.servers)
            for name, gpu in self.gpus.items()
        }

    # -- Gpus

    def use(self, device_id: str) -> GpuUse:
        if self.deaf:
            raise DeviceError("no answer.")
        gpu = self.gpus[device_id]
        processes = [GpuProcess(pid, used if gpu.told else None) for pid, used in gpu.use.items()]
        free = TOTAL - RESERVED - sum(gpu.use.values()) - gpu.host_bytes
        told = tuple(processes) if gpu.all_told else ()
        return GpuUse(TOTAL, RESERVED, free, told, gpu.all_told)

    def mig_is_on(self, device_id: str) -> bool:
        return self.gpus[device_id].mig

    def compute_mode(self, device_id: str) -> int:
        return self.modes.get(device_id, 0)

    def faults(self) -> Sequence[DeviceFault]:
        return self.lost

    # -- MpsDaemons

    def daemon(self, uuid: str) -> "Daemon":
        return Daemon(self, uuid)

    def own_daemons(self) -> "Sequence[Daemon]":
        left = [uuid for uuid, gpu in self.gpus.items() if gpu.daemon or gpu.servers]
        return [Daemon(self, uuid) for uuid in left]

    # -- GpuInstances

    async def ensure(self, wanted: MigSlice, ours: Collection[Place]) -> MigInstance:
        gpu = self.gpus[wanted.device_id]
        if not gpu.mig:
            raise DeviceError("MIG is off.")
        place = (wanted.mig_profile, wanted.slice_start, wanted.slice_count)
        if place not in gpu.instances:
            for other in [p for p in gpu.instances if _overlap(p, place)]:
                if other not in ours:
                    raise DeviceError("another instance is in the way.")
                self.touch("make room")
                gpu.instances.remove(other)
            self.touch("create an instance")
            gpu.instances.add(place)
            self.touch("go on after creating an instance")
        return MigInstance(*place, memory_bytes=Bytes(10 * GIB), uuid=f"MIG-{wanted.slice_start}")

    async def destroy(self, device_id: str, place: Place) -> None:
        self.touch("destroy an instance")
        self.gpus[device_id].instances.discard(place)
        self.touch("go on after destroying an instance")

    async def instances(self, device_id: str) -> Sequence[MigInstance]:
        return [
            MigInstance(*place, memory_bytes=Bytes(10 * GIB), uuid="MIG-x")
            for place in sorted(self.gpus[device_id].instances)
        ]


def _overlap(one: Place, other: Place) -> bool:
    return one[1] < other[1] + other[2] and other[1] < one[1] + one[2]


class Client(NamedTuple):
    """A client of an MPS daemon."""

    pid: int


@dataclasses.dataclass(frozen=True)
class Daemon:
    """An MPS daemon of the world."""

    world: World
    uuid: str

    @property
    def _gpu(self) -> Gpu:
        return self.world.gpus[self.uuid]

    @property
    def pipe_dir(self) -> Path:
        return Path("/pipe") / self.uuid

    async def ensure(self, group: str, users: Collection[str]) -> None:
        del group, users
        if not self._gpu.daemon:
            self.world.touch("start MPS")
            self._gpu.daemon = True
            self.world.touch("go on after starting MPS")

    def client_env(self, sm_percent: int, memory_bytes: int) -> tuple[tuple[str, str], ...]:
        return (("PIPE", str(self.pipe_dir)), ("SM", str(sm_percent)), ("MEM", str(memory_bytes)))

    async def terminate(self, pids: Collection[int]) -> None:
        self.world.terminated += [pid for pid in self._gpu.clients if pid in pids]

    async def fault(self) -> str:
        return self._gpu.fault

    async def clients(self) -> "Sequence[Client]":
        return [Client(pid) for pid in self._gpu.clients]

    async def quit(self) -> None:
        if self._gpu.daemon or self._gpu.servers:
            self.world.touch("quit MPS")
            self._gpu.daemon, self._gpu.servers = False, 0
            self.world.touch("go on after quitting MPS")

    async def running(self) -> bool:
        return self._gpu.daemon

    def pids(self) -> Collection[int]:
        return [1] if self._gpu.daemon else []


def partitions(world: World, path: Path, kv_tokens: int = 0) -> HostPartitions:
    """A daemon's view of the world, with the journal that is on disk."""

    def owners() -> Mapping[int, str]:
        return world.living

    journal = DeviceJournal(path)
    fakes: Any = world  # of GPUs, MPS daemons and GPU instances
    return HostPartitions(
        journal, gpus=fakes, daemons=fakes, instances=fakes, owners=owners,
        kv_tokens=lambda _: kv_tokens,
    )  # fmt: skip


def share(gib: int = 10, device: str = GPU) -> MemoryShare:
    return MemoryShare(device, Bytes(gib * GIB))


def mps(percent: int = 30, device: str = GPU, group: str = "") -> MpsShare:
    return MpsShare(device, Bytes(10 * GIB), percent, isolation_group=group)


def mig(start: int = 0, device: str = GPU) -> MigSlice:
    return MigSlice(device, Bytes(9 * GIB), "1g.10gb", start, 1)


def launch(name: str, partition: Partition | None) -> EngineLaunch:
    """An engine in a partition."""
    device_id = partition.device_id if partition is not None else "GPU-0"
    return EngineLaunch(
        replica_id=name, model_name="m", model_folder="/m", placement=None, device_id=device_id,
        visible_device=device_id, cores=(0,),
        memory_bytes=partition.memory_bytes if partition is not None else GIB,
        device_memory_bytes=TOTAL, kv_cache_bytes=GIB, max_num_seqs=8, max_num_batched_tokens=2048,
        max_model_len=2048, dtype="auto", dummy_weights=True, engine_kind="simulated",
        extra_env=(("A", "1"),), partition=partition,
    )  # fmt: skip


def handle(started: EngineLaunch, pid: int = 100) -> EngineHandle:
    """Its process."""
    return EngineHandle(started, pid, 1, "boot", "/s", "/log", "/run")
