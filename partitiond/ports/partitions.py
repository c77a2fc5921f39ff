"""Defines partitions on devices: how they are made, checked and taken away."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport


class PartitionWatch(Protocol):
    """Watches what engines do to devices, and restores the devices in the end."""

    async def faults(self) -> Sequence[DeviceFault]:
        """Return devices whose engines are all broken, or about to be, according to the driver or
        MPS.
        """
        ...

    async def shares(self) -> Sequence[ShareUse]:
        """Return the memory that engines in memory shares hold, under MPS or not: only this check
        bounds it.

        Engines about which the driver tells nothing, or whose device does not answer, are left out.
        """
        ...

    async def clear(self) -> Sequence[str]:
        """Restore the devices as they were found; engines must be gone. Returns what could not be
        undone, one sentence each."""
        ...


class PartitionControl(PartitionWatch, Protocol):
    """Makes a device give an engine what its partition says, and nothing more.

    Every write to a device is journalled before it is done, so that after a crash it is adopted (if
    its engine lives) or undone.
    """

    async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
        """Make the launch's partition; return the launch with what its engine has to be told.

        That is `visible_device`, `extra_env`, and `device_memory_bytes` as the engine will see it.

        Raises:
            DeviceError: the device refuses, is in another mode and not empty, or lacks the free
                memory. Nothing of this launch is then left on it.
        """
        ...

    async def verify(self, handle: EngineHandle, report: EngineReport) -> None:
        """Compare what a ready engine took with its partition.

        Raises:
            StartFailedError: the engine holds more memory, or has less KV cache, than planned.
        """
        ...

    async def asleep(self, handle: EngineHandle, level: int) -> None:
        """Note that an engine sleeps: it is now promised what a sleeper holds; at level 0, that it
        is awake again. Repeatable.
        """
        ...

    async def waking(self, handle: EngineHandle) -> None:
        """Prepare for a sleeping engine to take its whole partition again.

        Raises:
            DeviceError: the device lacks the free memory.
        """
        ...

    async def before_stop(self, handle: EngineHandle) -> None:
        """Do what must precede a signal to an engine: the MPS control daemon ends its clients,
        so that none dies inside a kernel. Never raises.
        """
        ...

    async def release(self, launch: EngineLaunch) -> None:
        """Give back what only this launch's engine used; the engine is gone. Idempotent.

        Raises:
            DeviceError: the device keeps something; the next release tries again.
        """
        ...

    async def settle(self, alive: Sequence[EngineHandle]) -> Sequence[str]:
        """After a daemon's start, keep what living engines use and undo the rest of the journal.

        Returns:
            What was found and done, one sentence each.
        """
        ...
