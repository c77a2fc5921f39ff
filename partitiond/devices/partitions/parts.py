"""What partitions are made of: the GPUs' memory, MPS daemons, GPU instances. Small on purpose.

The adapters of NVML, MPS and MIG fit these; tests of the journal's rules bring their own.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from partitiond.core.hardware import MigInstance
from partitiond.core.mig import Place
from partitiond.core.partition import MigSlice
from partitiond.core.partition_checks import GpuUse
from partitiond.ports import DeviceFault


class Gpus(Protocol):
    """What a look at a GPU tells. Calls may block."""

    def use(self, device_id: str) -> GpuUse:
        """Its memory now. Raises DeviceError."""
        ...

    def mig_mode(self, device_id: str) -> tuple[bool, bool]:
        """Whether it shows nothing but GPU instances: now, and after its next reset.

        Raises DeviceError.
        """
        ...

    def compute_mode(self, device_id: str) -> int:
        """How many processes the driver lets onto it, as NVML counts. Raises DeviceError."""
        ...

    def faults(self) -> Sequence[DeviceFault]:
        """GPUs on which nothing can run any more, by Xid events and health. Never raises."""
        ...


class MpsClient(Protocol):
    """A program that runs under an MPS daemon."""

    @property
    def pid(self) -> int:
        """0: it is in another PID namespace."""
        ...


class MpsDaemon(Protocol):
    """The MPS control daemon of one GPU, ours, running or not."""

    @property
    def uuid(self) -> str:
        """Of its GPU."""
        ...

    @property
    def pipe_dir(self) -> Path:
        """Where clients find it."""
        ...

    async def ensure(self) -> None:
        """Start it if it does not run. Raises DeviceError."""
        ...

    def client_env(self, sm_percent: int, memory_bytes: int) -> tuple[tuple[str, str], ...]:
        """What a client has to be told."""
        ...

    async def clients(self) -> Sequence[MpsClient]:
        """Programs that run under it now. Raises DeviceError."""
        ...

    async def terminate(self, pids: Collection[int]) -> object:
        """End the use of the GPU by those of these processes that are its clients, outside of any
        kernel. Raises DeviceError."""
        ...

    async def fault(self) -> str:
        """What broke all its clients; empty when it is well."""
        ...

    async def quit(self) -> None:
        """End it and its servers; nothing is left when it returns. Raises DeviceError."""
        ...

    def alive(self) -> bool:
        """Whether it runs."""
        ...

    def pids(self) -> Collection[int]:
        """Its process and its servers'."""
        ...


class MpsDaemons(Protocol):
    """The MPS daemons of this run folder."""

    def daemon(self, uuid: str) -> MpsDaemon:
        """The one of a GPU."""
        ...

    def recorded(self) -> Sequence[MpsDaemon]:
        """Those that were started from this run folder and not ended: running ones, and those of
        which only servers or records are left."""
        ...


class GpuInstances(Protocol):
    """GPU instances of MIG."""

    async def ensure(self, wanted: MigSlice, ours: Collection[Place]) -> MigInstance:
        """The instance at this place, made if it is not there. Raises DeviceError.

        Args:
            ours: instances that may be destroyed to make room or, the wanted one, completed.
        """
        ...

    async def destroy(self, device_id: str, place: Place) -> None:
        """Remove an instance; one that is not there is no error. Raises DeviceError."""
        ...

    async def instances(self, device_id: str) -> Sequence[MigInstance]:
        """Those that exist, by first slice. Raises DeviceError."""
        ...

    async def set_mode(self, device_id: str, *, on: bool) -> None:
        """Turn MIG on or off on an idle GPU. Raises DeviceError."""
        ...


class Owners(Protocol):
    """Which processes are our engines'."""

    def __call__(self) -> Mapping[int, str]:
        """Replica id by pid, of every living process of every engine of this run folder."""
        ...
