"""Operators' cordons: kept in the store, put on the devices as they are seen."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.watching import DeviceWatch
from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware import Device
from partitiond.core.health import Health
from partitiond.ports import Clock, Store

MARK: Final = "cordon"
"""Kind of the marks: the reason, by device id."""

MIN_PREFIX: Final = 4
"""Characters from which the beginning of a device id may stand for it."""

NO_REASON: Final = "no reason given"


def with_cordons(devices: Sequence[Device], marks: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices, those cordoned that an operator marked; his reason comes first."""
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


def device_named(devices: Sequence[Device], text: str) -> Device:
    """The device of that id, or the only one whose id begins so.

    Raises:
        NotFoundError: none, with those that there are.
        InputError: the beginning of several.
    """
    exact = [device for device in devices if device.id == text]
    found = exact or [d for d in devices if len(text) >= MIN_PREFIX and d.id.startswith(text)]
    if len(found) > 1:
        raise InputError(
            f"{text} is the beginning of {len(found)} device ids.",
            hint="Write more of it: " + ", ".join(device.id for device in found) + ".",
            facts={"device": text},
        )
    if not found:
        there = ", ".join(device.id for device in devices) or "there are none"
        raise NotFoundError(
            f"there is no device {text}.",
            hint=f"Devices of this host: {there}.",
            facts={"device": text},
        )
    return found[0]


def health_changes(
    before: Sequence[Device], now: Sequence[Device]
) -> tuple[tuple[Device, str, str], ...]:
    """Devices that are better or worse than at the look before, each with an event's kind and
    words. At the first look everything that is not fine is news.
    """
    known = {device.id: device.health for device in before}
    found = []
    for device in now:
        if device.health is known.get(device.id, Health.FINE):
            continue
        words = device.health_reason or "nothing is known against it any more."
        found.append((device, f"device-{device.health.value}", words))
    return tuple(found)


class Cordons:
    """Sets and lifts cordons.

    Args:
        changed: called when plans have to be made anew.
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

    def set(self, device_id: str, reason: str) -> Device:
        """Nothing is placed on the device from now on; setting it again changes the reason.

        Raises:
            NotFoundError, InputError: see `device_named`.
        """
        device = device_named(self._devices.devices, device_id)
        words = reason.strip() or NO_REASON
        self._store.set_mark(MARK, device.id, words, self._clock.utc_iso())
        self._journal.note("device-cordoned", device.id, words)
        return self._look_again(device.id)

    def lift(self, device_id: str) -> Device:
        """Take the operator's cordon off, and hold the driver's earlier messages against it no
        longer. What the driver reads as failed now keeps it cordoned.

        Raises:
            NotFoundError, InputError: see `device_named`.
        """
        device = device_named(self._devices.devices, device_id)
        self._store.set_mark(MARK, device.id, None)
        self._devices.forgive(device.id)
        self._journal.note("device-uncordoned", device.id, "plans may use it again.")
        return self._look_again(device.id)

    def looked(self, before: Sequence[Device], now: Sequence[Device]) -> None:
        """Tell what changed since the look before, and plan again where a device came or went."""
        for device, kind, words in health_changes(before, now):
            self._journal.note(kind, device.id, words)
        if before and {d.id: d.cordoned for d in before} != {d.id: d.cordoned for d in now}:
            self._changed()

    def _look_again(self, device_id: str) -> Device:
        self._devices.mark()
        self._changed()
        return device_named(self._devices.devices, device_id)
