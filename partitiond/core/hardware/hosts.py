"""Tells the devices of several hosts apart: cores and memory are of one host."""

from collections.abc import Iterable, Mapping

from partitiond.core.hardware.kinds import Device


def hosts_of(devices: Iterable[Device]) -> tuple[str, ...]:
    """Return the names of the hosts, each once, in the order of their devices."""
    return tuple(dict.fromkeys(device.host for device in devices))


def ids_elsewhere(host: str, devices: Iterable[Device]) -> frozenset[str]:
    """Return the ids of the devices that are known to be on other hosts.

    What uses a device that is not known any more may use cores and memory of any host; it counts
    on each of them.
    """
    return frozenset(device.id for device in devices if device.host != host)


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
