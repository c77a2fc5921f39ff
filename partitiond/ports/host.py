"""The host: its devices, its proxy process, its clocks."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from partitiond.core.hardware import Device
from partitiond.core.routing import RoutingTable


class DeviceProvider(Protocol):
    """Finds the devices of this host."""

    def discover(self) -> Sequence[Device]:
        """All devices now. Raises DeviceError when the driver refuses."""
        ...


class ProxyControl(Protocol):
    """The controller's view of the proxy process."""

    async def ensure_running(self) -> bool:
        """Adopt or start it; True when a new process was started."""
        ...

    async def wait_exit(self) -> int | None:
        """Return once its process is gone, whoever started it; at once when there is none."""
        ...

    async def publish(self, table: RoutingTable) -> None:
        """Hand over a snapshot.

        Raises ConflictError with the fact `current` when the proxy has a newer one, and
        PartitiondError when it cannot be reached.
        """
        ...

    async def in_flight(self) -> Mapping[str, int] | None:
        """Requests in flight by replica id; None when the proxy cannot say."""
        ...

    async def stats(self) -> Mapping[str, float]:
        """Counters and gauges of one scrape."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Finish what runs within the grace, then end the process."""
        ...


class Clock(Protocol):
    """Time as an argument."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    def utc_iso(self) -> str:
        """Wall-clock time, ISO 8601 UTC."""
        ...
