"""Provides telemetry with preset figures. Shipped, for tests and simulations."""

import dataclasses

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry


class FakeTelemetry:
    """A source whose windows, each like itself, return `says`.

    Without engines (`pids`) there is no CPU time of engines, so `cores_used` is None then, as it is
    from the host's own source.
    """

    def __init__(self, says: Telemetry | None) -> None:
        self.says = says

    async def open(self, device: Device, pids: tuple[int, ...]) -> "FakeTelemetry":
        """Begin a window."""
        del device
        says = self.says
        if says is not None and not pids:
            says = dataclasses.replace(says, cores_used=None)
        return FakeTelemetry(says)

    async def close(self) -> Telemetry | None:
        """End the window."""
        return self.says
