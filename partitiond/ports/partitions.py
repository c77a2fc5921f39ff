"""Partitions on devices: made, checked, taken away."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from partitiond.ports.engine import EngineHandle, EngineLaunch, EngineReport


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceFault:
    """Something that broke all engines of a device at once.

    Attributes:
        device_id: the fault domain: nothing starts there until all its engines are gone.
        reason: what happened, and what it takes to recover.
    """

    device_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ShareUse:
    """What an engine in a share of a device's memory holds now.

    Attributes:
        name: of the engine.
        budget_bytes: what its share promises it.
        held_bytes: what its processes hold of the device.
    """

    name: str
    budget_bytes: int
    held_bytes: int


class PartitionControl(Protocol):
    """Makes a device give an engine what its partition says, and nothing more.

    Whatever is written to a device is journalled before it is done, so that after a crash it is
    adopted (its engine lives) or undone.
    """

    async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
        """Make the launch's partition real; the launch with what its engine has to be told.

        That is `visible_device`, `extra_env`, and `device_memory_bytes` as the engine will see it.

        Raises:
            DeviceError: the device refuses, is in another mode and not empty, or has not the
                memory free. Nothing of this launch is left on it then.
        """
        ...

    async def verify(self, handle: EngineHandle, report: EngineReport) -> None:
        """Compare what a ready engine took with what its partition is.

        Raises:
            StartFailedError: it holds more memory, or has less KV cache, than was planned.
        """
        ...

    async def asleep(self, handle: EngineHandle, level: int) -> None:
        """An engine sleeps: what it is promised now is what a sleeper holds. Repeatable."""
        ...

    async def waking(self, handle: EngineHandle) -> None:
        """A sleeper is about to take its whole partition again.

        Raises:
            DeviceError: its device has not the memory free.
        """
        ...

    async def before_stop(self, handle: EngineHandle) -> None:
        """What has to be done before an engine may be signalled: MPS clients are ended by their
        control daemon, so that none dies inside a kernel. Never raises.
        """
        ...

    async def release(self, launch: EngineLaunch) -> None:
        """Its engine is gone: give back what only it used. Idempotent.

        Raises:
            DeviceError: the device keeps something; it is tried again with the next release.
        """
        ...

    async def settle(self, alive: Sequence[EngineHandle]) -> Sequence[str]:
        """After a start of the daemon: keep what living engines use, undo the rest of the journal.

        Returns:
            What was found and done, one sentence each.
        """
        ...

    async def faults(self) -> Sequence[DeviceFault]:
        """Devices whose engines are all broken, or about to be, since the driver or MPS says so."""
        ...

    async def shares(self) -> Sequence[ShareUse]:
        """What engines in memory shares hold, under MPS or not: nothing but this look bounds them.

        Engines of which the driver tells nothing, or whose device does not answer, are left out.
        """
        ...

    async def clear(self) -> Sequence[str]:
        """Return the devices as they were found; engines must be gone. What could not be undone,
        one sentence each."""
        ...
