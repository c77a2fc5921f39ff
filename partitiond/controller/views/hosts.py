"""Shows the hosts of the fleet, and forgets lost ones."""

import platform
from collections.abc import Callable, Sequence

from partitiond import __version__
from partitiond.controller.journal import Journal
from partitiond.core.hardware.host_state import HostView, host_to_forget
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.ports import Clock
from partitiond.ports.cluster import FleetHosts


class OneHost:
    """Implements `ports.cluster.FleetHosts` for a fleet of one host."""

    def __init__(
        self,
        devices: Callable[[], Sequence[Device]],
        engine_version: Callable[[str], str],
        clock: Clock,
    ) -> None:
        self._devices = devices
        self._engine_version = engine_version
        self._clock = clock

    def views(self) -> Sequence[HostView]:
        """Return this host: it answers, since this does."""
        devices = self._devices()
        name = devices[0].host if devices else platform.node()
        return (
            HostView(
                name,
                is_head=True,
                partitiond_version=__version__,
                engine_version=self._engine_version(name),
                last_word=self._clock.utc_iso(),
                clock_offset_seconds=0.0,
                gpus=sum(device.kind is DeviceKind.GPU for device in devices),
                devices=len(devices),
            ),
        )

    def forget(self, name: str) -> None:
        """Refuse. Raises NotFoundError, ConflictError."""
        host_to_forget(self.views(), name)


class HostUseCases:
    """Implements `ports.cluster.FleetHosts` for operators: what is forgotten is noted.

    Args:
        changed: called when plans have to be made again.
    """

    def __init__(self, hosts: FleetHosts, *, journal: Journal, changed: Callable[[], None]) -> None:
        self._hosts = hosts
        self._journal = journal
        self._changed = changed

    def views(self) -> Sequence[HostView]:
        """Return all hosts, the head's first, then by name."""
        return self._hosts.views()

    def forget(self, name: str) -> None:
        """Count a lost host as no part of the fleet any more. Raises NotFoundError, ConflictError.

        What ran there is not waited for any more. If the host comes back, it joins anew.
        """
        host = host_to_forget(self._hosts.views(), name)
        self._hosts.forget(name)
        said = f"its last word was at {host.last_word}" if host.last_word else "it never answered"
        self._journal.note("host-forgotten", name, f"{said}; nothing is placed there any more.")
        self._changed()
