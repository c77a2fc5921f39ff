"""Defines telemetry: what a device and its host report while an engine works."""

from typing import Protocol

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry


class TelemetryWindow(Protocol):
    """Telemetry from the opening of a window to its closing."""

    async def close(self) -> Telemetry | None:
        """End the window; returns means over it, or None without telemetry. Call it once."""
        ...


class TelemetrySource(Protocol):
    """Opens windows on a device."""

    async def open(self, device: Device, pids: tuple[int, ...]) -> TelemetryWindow:
        """Begin a window.

        Args:
            device: a GPU, or the CPU device.
            pids: leaders of the engines' sessions (`EngineHandle.pid`), for their CPU time.
        """
        ...
