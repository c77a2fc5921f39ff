"""The host: its devices, its proxy process, its clocks."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from partitiond.core.hardware import Device, DeviceDetails
from partitiond.core.keys import KeyUse
from partitiond.core.routing import RoutingTable
from partitiond.core.sleep import Traffic
from partitiond.core.traffic import TrafficSample


class DeviceProvider(Protocol):
    """Finds the devices of this host."""

    def discover(self) -> Sequence[Device]:
        """All devices now. Raises DeviceError when the driver refuses."""
        ...


@runtime_checkable
class DeviceCare(Protocol):
    """What a provider of devices may offer beside finding them, for who looks after them."""

    def inspect(self, device_id: str) -> DeviceDetails:
        """Everything that is told of one device. Raises DeviceError, NotFoundError."""
        ...

    def forgive(self, device_id: str) -> None:
        """Somebody looked after it: what was said against it so far counts no more."""
        ...


@runtime_checkable
class PartialDevices(Protocol):
    """What a provider offers that may not be able to see all of its devices."""

    @property
    def unseen(self) -> str:
        """Why devices that are there may be missing from the last look; empty where none are."""
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

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Who waits, and how long each model has been idle; None when the proxy cannot say."""
        ...

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        """How much of each key is used, by id; None when the proxy cannot say."""
        ...

    async def sample(self) -> TrafficSample | None:
        """What it has counted by model, replica and key; None when the proxy cannot say."""
        ...

    def last_sample(self) -> TrafficSample | None:
        """What the proxy that ended last had counted; None where nobody knows."""
        ...

    async def metrics_text(self) -> str:
        """Its Prometheus text. Raises PartitiondError when it cannot be reached."""
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
