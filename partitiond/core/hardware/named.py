"""Finds the device that a person names by its id, or by the beginning of the id."""

from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware.hosts import hosts_of
from partitiond.core.hardware.kinds import Device

MIN_PREFIX: Final = 4
"""Least number of characters with which the beginning of a device id may stand for the id."""


def device_named(devices: Sequence[Device], text: str) -> Device:
    """Return the device with that id, or the only one whose id begins with the text.

    Raises:
        NotFoundError: no device matches; the hint lists those that there are.
        InputError: the text is the beginning of several ids.
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
        whose = "Devices" if len(hosts_of(devices)) > 1 else "Devices of this host"
        raise NotFoundError(
            f"there is no device {text}.",
            hint=f"{whose}: {there}.",
            facts={"device": text},
        )
    return found[0]
