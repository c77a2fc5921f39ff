"""Keeps operators' cordons in the store, and puts them on the devices as they are seen."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import HostStanding
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.named import device_named
from partitiond.ports import Clock
from partitiond.store import Store

MARK: Final = "cordon"
"""Kind of the marks in the store that hold the reason of a cordon, by device id."""

NO_REASON: Final = "no reason given"


def with_cordons(devices: Sequence[Device], marks: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the devices, cordoned where an operator marked one; that reason comes first."""
    return tuple(
        dataclasses.replace(
            device,
            cordoned=True,
            cordon_reason=" Also: ".join(filter(None, (marks[device.id], device.cordon_reason))),
        )
        if device.id in marks
        else device
        for device in devices
    )


def health_changes(
    before: Sequence[Device], now: Sequence[Device], told: Collection[str] = ()
) -> tuple[tuple[Device, str, str], ...]:
    """Return the devices whose health changed since the last look, each with an event's kind and
    words. At the first look every device that is not fine counts as changed.

    Args:
        before: as seen before.
        now: as seen now.
        told: hosts whose change is an event of its own, which says what holds of their devices.
    """
    known = {device.id: device.health for device in before}
    found = []
    for device in now:
        if device.health is known.get(device.id, DeviceHealth.FINE) or device.host in told:
            continue
        words = device.health_reason or "nothing is known against it any more."
        found.append((device, f"device-{device.health.value}", words))
    return tuple(found)


def host_changes(
    before: Mapping[str, HostStanding], now: Mapping[str, HostStanding]
) -> tuple[tuple[str, str, str], ...]:
    """Return (host, kind of an event, words) for each host that fell silent, was lost or refused,
    or is back. A host that is late only, or new, is none of these.
    """
    found = []
    for name, standing in now.items():
        was = before.get(name)
        if standing.answers:
            if was is not None and not was.answers:
                found.append((name, "host-back", "answers again; what runs there is known."))
        elif was is None or was.state is not standing.state:
            found.append((name, f"host-{standing.state.value}", standing.reason))
    return tuple(found)


class Cordons:
    """Sets and lifts cordons.

    Args:
        changed: called when plans have to be made again.
    """

    def __init__(
        self,
        *,
        store: Store,
        devices: DeviceWatch,
        clock: Clock,
        journal: Journal,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._devices = devices
        self._clock = clock
        self._journal = journal
        self._changed = changed
        self._hosts: Mapping[str, HostStanding] = {}

    def set(self, device_id: str, reason: str) -> Device:
        """Cordon the device: nothing is placed on it from now on. A second call sets the reason.

        Raises:
            NotFoundError, InputError: see `device_named`.
        """
        device = device_named(self._devices.devices, device_id)
        words = reason.strip() or NO_REASON
        self._store.set_mark(MARK, device.id, words, self._clock.utc_iso())
        self._journal.note("device-cordoned", device.id, words)
        return self._look_again(device.id)

    async def lift(self, device_id: str) -> Device:
        """Take the operator's cordon off, and disregard the driver's earlier messages about the
        device. The device stays cordoned if the driver reports a failure now.

        Raises:
            NotFoundError, InputError: see `device_named`.
            SilentError: the device's host does not answer.
        """
        device = device_named(self._devices.devices, device_id)
        self._store.set_mark(MARK, device.id, None)
        await self._devices.forgive(device.id)
        self._journal.note("device-uncordoned", device.id, "plans may use it again.")
        self._look_again(device.id)
        await self._devices.refresh(0.0)
        return device_named(self._devices.devices, device.id)

    def looked(self, before: Sequence[Device], now: Sequence[Device]) -> None:
        """Note what changed since the last look; plan again if a device or cordon came or went."""
        earlier, self._hosts = self._hosts, self._devices.hosts()
        for name, kind, words in host_changes(earlier, self._hosts):
            self._journal.note(kind, name, words)
        away = {
            n for known in (earlier, self._hosts) for n, one in known.items() if not one.answers
        }
        for device, kind, words in health_changes(before, now, away):
            self._journal.note(kind, device.id, words)
        if before and {d.id: d.cordoned for d in before} != {d.id: d.cordoned for d in now}:
            self._changed()

    def _look_again(self, device_id: str) -> Device:
        self._devices.mark()
        self._changed()
        return device_named(self._devices.devices, device_id)
