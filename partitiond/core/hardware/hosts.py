"""Tells the devices of several hosts apart: cores and memory are of one host."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from partitiond.core.hardware.kinds import Device
from partitiond.core.numbers.grouping import by_key

T = TypeVar("T")


def hosts_of(devices: Iterable[Device]) -> tuple[str, ...]:
    """Return the names of the hosts, each once, in the order of their devices."""
    return tuple(dict.fromkeys(device.host for device in devices))


def on_each_host(
    devices: Sequence[Device], items: Iterable[T], device_id: Callable[[T], str]
) -> dict[str, list[T]]:
    """Group what uses devices by their hosts; hosts and items are in their order.

    What uses a device that is not known any more may use cores and memory of any host; it counts
    on each of them, after those that are known to be there.

    Args:
        devices: of all hosts.
        device_id: returns the device that an item uses.
    """
    host_of = {device.id: device.host for device in devices}
    there = by_key((host_of.get(device_id(item)), item) for item in items)
    return {host: [*there[host], *there[None]] for host in hosts_of(devices)}


def start_cores(devices: Sequence[Device]) -> dict[str, int]:
    """Return by device how many host cores its engines may use if all devices are to have as many:
    those of its host's devices of that kind, divided among them.
    """
    alike = by_key(((device.host, device.kind), device) for device in devices)
    found: dict[str, int] = {}
    for those in alike.values():
        cores = {core for device in those for core in device.cores}
        found |= dict.fromkeys((device.id for device in those), len(cores) // len(those))
    return found


def memory_by_host(
    devices: Iterable[Device], usual_bytes: int | None, told_bytes: Mapping[str, int]
) -> dict[str, int]:
    """Return the memory for engines by host, as far as it is known.

    Args:
        devices: of all hosts.
        usual_bytes: of each host that does not tell its own; None if that is not known.
        told_bytes: by host, from those that tell their own.
    """
    usual = {} if usual_bytes is None else dict.fromkeys(hosts_of(devices), usual_bytes)
    return {**usual, **told_bytes}
