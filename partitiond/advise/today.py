"""Describes the devices of today's deployment, and which engine runs on which."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.lookup import find_hardware
from partitiond.fleet.devices import MAX_DEVICES, DeviceTable, devices_of

_DESCRIBED: Final = re.compile(r"(?:(\d{1,9}) ?[x ] ?)?(\S+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Address of an engine, and the devices that the user names for it.

    Attributes:
        url: such as "http://node-1:8000"; "unix:/run/e.sock" for a socket.
        devices: indices or ids; empty if the user named none.
    """

    url: str
    devices: tuple[str, ...] = ()


_ADDRESS: Final = re.compile(r"^(?P<url>[^=\s]+?)(?:=(?P<devices>[\w.,-]+))?$")


def parse_address(text: str) -> Address:
    """Read "URL" or "URL=DEVICE[,DEVICE]".

    Raises:
        SpecError: the text is neither an HTTP address nor a Unix socket.
    """
    match = _ADDRESS.match(text.strip())
    url = match["url"].rstrip("/") if match else ""
    if match and re.match(r"^[\w.-]+:\d+(/|$)", url):
        url = f"http://{url}"
    if match is None or not re.match(r"^(https?://[^/]+|unix:/)", url):
        raise SpecError(
            f"{text!r} is no address of an engine.",
            hint="As http://127.0.0.1:8000, with the GPU it runs on http://127.0.0.1:8000=0.",
        )
    devices = tuple(filter(None, (match["devices"] or "").split(",")))
    return Address(url, devices)


def parse_devices(texts: Sequence[str]) -> tuple[Device, ...]:
    """Return devices for texts like "4 a100-80gb", as a fleet file's. Raises SpecError."""
    tables: list[DeviceTable] = []
    for text in texts:
        match = _DESCRIBED.fullmatch(" ".join(text.split()))
        count = int(match[1] or 1) if match else 0
        if match is None or not 1 <= count <= MAX_DEVICES - sum(t.count for t in tables):
            raise SpecError(
                f"--gpu {text!r} names no GPUs.",
                hint=f'As --gpu "4 a100-80gb"; at most {MAX_DEVICES} in all.',
            )
        spec, mig = find_hardware(match[2])
        if mig is not None:
            raise SpecError(f"--gpu {text!r} names a MIG slice.", hint=f"Name the GPU: {spec.key}.")
        tables.append(DeviceTable(hardware=spec.key, count=count))
    return devices_of(tuple(tables))


def resolve_devices(
    addresses: Sequence[Address], devices: Sequence[Device]
) -> dict[str, tuple[str, ...]]:
    """Return device ids by address: those that the user named, or else the next unnamed device.

    Raises:
        SpecError: there is no such device, or too few of them.
    """
    on = {a.url: tuple(_device(name, a.url, devices) for name in a.devices) for a in addresses}
    named = {device for some in on.values() for device in some}
    left = [device.id for device in devices if device.id not in named]
    unnamed = [url for url, some in on.items() if not some]
    if len(unnamed) > len(left):
        raise SpecError(
            f"{len(unnamed)} address(es) name no GPU, and {len(left)} GPU(s) are left for them.",
            hint="Name each with --address URL=GPU (several may be on one), or give all by --gpu.",
        )
    return {**on, **{url: (device,) for url, device in zip(unnamed, left, strict=False)}}


def _device(name: str, url: str, devices: Sequence[Device]) -> str:
    """Return a device id by index, or by id."""
    ids = [d.id for d in devices]
    if name in ids:
        return name
    if name.isdigit() and int(name) < len(ids):
        return ids[int(name)]
    shown = ", ".join(f"{n} ({i})" for n, i in enumerate(ids[:8]))
    raise SpecError(
        f"{url}={name}: no device of that name.",
        hint=f"The devices are {shown}{' ...' if len(ids) > 8 else ''}.",
    )
