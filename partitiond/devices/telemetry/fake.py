"""Provides telemetry with preset figures. Shipped, for tests and simulations."""

import dataclasses

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry


class FakeWindow:
    """A window that ends with the figures it was opened with."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry
        self.closed = False

    async def close(self) -> Telemetry | None:
        """End the window."""
        self.closed = True
        return self._telemetry


class FakeTelemetry:
    """A source whose windows all return `says`; change `says` between windows.

    Without engines (`pids`) there is no CPU time of engines, so `cores_used` is None then, as it is
    from the host's own source.

    Attributes:
        windows: every window that was opened, with its device and pids.
    """

    def __init__(self, says: Telemetry | None) -> None:
        self.says = says
        self.windows: list[tuple[Device, tuple[int, ...], FakeWindow]] = []

    async def open(self, device: Device, pids: tuple[int, ...]) -> FakeWindow:
        """Begin a window."""
        says = self.says
        if says is not None and not pids:
            says = dataclasses.replace(says, cores_used=None)
        window = FakeWindow(says)
        self.windows.append((device, pids, window))
        return window
