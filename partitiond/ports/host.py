"""Defines the host: its devices, its proxy process, its clocks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.host_state import HostStanding
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic

PROXY_PATIENCE_SECONDS: Final = 1.0
"""Longest time that a pass of the loop waits for a call to the proxy, which takes milliseconds.
Chosen."""


class DeviceProvider(Protocol):
    """Finds the devices of this host."""

    def discover(self) -> Sequence[Device]:
        """Return all devices now. Raises DeviceError if the driver refuses."""
        ...


@runtime_checkable
class DeviceCare(Protocol):
    """Optional abilities of a device provider beyond finding devices, for their maintenance."""

    def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device. Raises DeviceError, NotFoundError."""
        ...

    def forgive(self, device_id: str) -> None:
        """Forget what was held against the device so far: an operator has looked after it."""
        ...


@runtime_checkable
class PartialDevices(Protocol):
    """A device provider that may not be able to see all of its devices."""

    @property
    def unseen(self) -> str:
        """Why existing devices may be missing from the last look; empty if none are."""
        ...


@runtime_checkable
class HostedDevices(Protocol):
    """A device provider over hosts that come and go. It marks devices by what holds of their host,
    and returns those of a host that does not answer, too.
    """

    def hosts(self) -> Mapping[str, HostStanding]:
        """Return what holds of each host now, by name. Returns at once."""
        ...

    def remember(self, devices: Sequence[Device]) -> None:
        """Remember earlier devices: those of a host that has not answered yet are silent."""
        ...


class ProxyControl(Protocol):
    """The controller's view of the proxy process."""

    @property
    def problem(self) -> str:
        """Why the proxy of this host does not answer, as last probed; empty if it does."""
        ...

    async def ensure_running(self) -> bool:
        """Adopt or start the proxy; True if a new process was started."""
        ...

    async def wait_exit(self) -> int | None:
        """Return once the proxy's process is gone, whoever started it; at once without one.
        Meanwhile the proxy is probed, and ended once it does not answer.
        """
        ...

    async def publish(self, table: RoutingTable) -> None:
        """Hand a snapshot to the proxy.

        Raises ConflictError with the fact `current` if the proxy has a newer one, NotKeptError if
        it serves by the table and could not store it, and PartitiondError if it cannot be reached.
        """
        ...

    async def in_flight(self, host: str = "") -> Mapping[str, int] | None:
        """Return requests in flight by replica id; None if the proxy cannot say.

        Args:
            host: whose proxy is asked, if there are several; empty for this one.
        """
        ...

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Return waiting requests, and each model's idle time; None if the proxy cannot say."""
        ...

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        """Use of each key so far, by id; None if the proxy cannot say."""
        ...

    async def sample(self) -> TrafficSample | None:
        """Return the proxy's counts by model, replica and key; None if the proxy cannot say."""
        ...

    def last_sample(self) -> TrafficSample | None:
        """Return the counts of the proxy that ended last; None if they are not known."""
        ...

    async def metrics_text(self) -> str:
        """Return the proxy's Prometheus text. Raises PartitiondError if it cannot be reached."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Let running requests finish within the grace, then end the process. Raises
        PartitiondError: it outlives SIGKILL, or its host does not answer."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class HostTable:
    """What the proxy of a host may have.

    Attributes:
        told: the snapshots of the fleet of which the proxy may have its part.
        problem: why the proxy may lack the newest one; empty if nothing is known to be wrong.
    """

    told: ToldTables
    problem: str


@runtime_checkable
class FleetProxies(Protocol):
    """Optional abilities of a `ProxyControl` that controls the proxies of several hosts."""

    def known_tables(self) -> Mapping[str, HostTable]:
        """Return what each host's proxy may have, by host. Returns at once."""
        ...

    def last_samples(self) -> Mapping[str, TrafficSample]:
        """Return the counts of each host's proxy that ended last, where they are known."""
        ...


class Clock(Protocol):
    """A clock, passed as an argument."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...

    def utc_iso(self) -> str:
        """Return the wall-clock time, ISO 8601 UTC."""
        ...
