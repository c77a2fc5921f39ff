"""Defines the ports that partitions use: GPU memory, MPS daemons, GPU instances. Small on purpose.

The adapters of NVML, MPS and MIG implement these ports; tests of the journal's rules bring fakes.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.hardware.partition_checks import GpuUse
from partitiond.core.mig.geometry import Place


class Gpus(Protocol):
    """Reads the state of GPUs. Calls may block."""

    def use(self, device_id: str) -> GpuUse:
        """Return the GPU's memory use now. Raises DeviceError."""
        ...

    def mig_mode(self, device_id: str) -> tuple[bool, bool]:
        """Whether MIG is on, so that only GPU instances are visible: now, and after the next reset.

        Raises DeviceError.
        """
        ...

    def compute_mode(self, device_id: str) -> int:
        """Return NVML's compute mode: how many processes may use the GPU. Raises DeviceError."""
        ...

    def faults(self) -> Sequence[DeviceFault]:
        """Return GPUs on which nothing can run any more, by Xid events and health. Never raises."""
        ...


class MpsClient(Protocol):
    """A program that runs under an MPS daemon."""

    @property
    def pid(self) -> int:
        """The client's pid; 0 if the client is in another PID namespace."""
        ...


class MpsDaemon(Protocol):
    """This daemon's MPS control daemon of one GPU, running or not."""

    @property
    def uuid(self) -> str:
        """UUID of the MPS daemon's GPU."""
        ...

    @property
    def pipe_dir(self) -> Path:
        """Folder in which clients find the MPS daemon."""
        ...

    async def ensure(self, group: str, users: Collection[str]) -> None:
        """Start the MPS daemon if it does not run, for an engine of this isolation group.

        Raises DeviceError, also if the daemon serves another group's engines, such as `users`.
        """
        ...

    def client_env(self, sm_percent: int, memory_bytes: int) -> tuple[tuple[str, str], ...]:
        """Return the environment variables that a client needs."""
        ...

    async def clients(self) -> Sequence[MpsClient]:
        """Return programs that run under the MPS daemon now. Raises DeviceError."""
        ...

    async def terminate(self, pids: Collection[int]) -> object:
        """End the GPU use of those of these processes that are clients of the MPS daemon, outside
        of any kernel. Raises DeviceError."""
        ...

    async def fault(self) -> str:
        """Return what broke all clients of the MPS daemon; empty if nothing did."""
        ...

    async def quit(self) -> None:
        """End the MPS daemon and its servers; none is left on return. Raises DeviceError."""
        ...

    def alive(self) -> bool:
        """Whether the MPS daemon runs."""
        ...

    def pids(self) -> Collection[int]:
        """Return the pids of the MPS daemon and of its servers."""
        ...


class MpsDaemons(Protocol):
    """The MPS daemons of this run folder."""

    def daemon(self, uuid: str) -> MpsDaemon:
        """Return the MPS daemon of a GPU."""
        ...

    def recorded(self) -> Sequence[MpsDaemon]:
        """Return MPS daemons that were started from this run folder and not ended: running ones,
        and those of which only servers or records are left."""
        ...


class GpuInstances(Protocol):
    """Creates, lists and destroys GPU instances of MIG."""

    async def ensure(self, wanted: MigSlice, ours: Collection[Place]) -> MigInstance:
        """Return the instance at this place; create it if it does not exist. Raises DeviceError.

        Args:
            ours: instances that may be destroyed to make room; the wanted one may be completed.
        """
        ...

    async def destroy(self, device_id: str, place: Place) -> None:
        """Remove an instance; a missing instance is no error. Raises DeviceError."""
        ...

    async def instances(self, device_id: str) -> Sequence[MigInstance]:
        """Return existing instances, ordered by first slice. Raises DeviceError."""
        ...

    async def set_mode(self, device_id: str, *, on: bool) -> None:
        """Turn MIG on or off on an idle GPU. Raises DeviceError."""
        ...


class Owners(Protocol):
    """Tells which processes belong to our engines."""

    def __call__(self) -> Mapping[int, str]:
        """Return the replica id by pid, of all living processes of this run folder's engines."""
        ...
