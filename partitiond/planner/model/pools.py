"""Computes the usable memory of a device, and the limits that devices of one host share."""

import dataclasses
from collections.abc import Iterable
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind, headroom_bytes
from partitiond.core.numbers.grouping import by_key

MOST_UNIONS: Final = 1_000
"""Unions of core lists on one host that are constrained. NUMA nodes and a CPU device have one each,
n lists of which each overlaps the next n^2 / 2; more than that is no host that we know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """A limit that devices of one host share: its cores, or its memory in bytes."""

    index: int
    kind: str
    bins: frozenset[int]
    capacity: int


def usable_bytes(device: Device) -> int:
    """Return the memory for footprints: total less reserved, foreign use and headroom."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes))


def shared_limits(
    devices: tuple[Device, ...], host_memory_bytes: tuple[tuple[str, int], ...]
) -> tuple[Pool, ...]:
    """Return cores and memory of each host, if several devices draw from them.

    Args:
        devices: all devices.
        host_memory_bytes: memory for engines by host, if no CPU device states it.
    """
    by_host = by_key((device.host, index) for index, device in enumerate(devices))
    stated = dict(host_memory_bytes)
    found: list[tuple[str, frozenset[int], int]] = []
    for host, bins in sorted(by_host.items()):
        found.extend(_core_pools(devices, bins))
        budgets = [usable_bytes(devices[b]) for b in bins if devices[b].kind is DeviceKind.CPU]
        budgets += [stated[host]] if host in stated else []
        if budgets and (len(bins) > 1 or host in stated):
            found.append(("host", frozenset(bins), min(budgets)))
    return tuple(Pool(index, *pool) for index, pool in enumerate(found))


def _core_pools(
    devices: tuple[Device, ...], bins: list[int]
) -> Iterable[tuple[str, frozenset[int], int]]:
    """Apply Hall's condition: engines with cores within a set need no more cores than it has.

    A union of lists that do not overlap needs no limit of its own: its parts have theirs.
    """
    sets = sorted({frozenset(devices[b].cores) for b in bins if devices[b].cores}, key=sorted)
    unions = dict.fromkeys(sets)
    waiting = [*sets]
    while waiting and len(unions) < MOST_UNIONS:
        one = waiting.pop()
        for more in (one | other for other in sets if one & other):
            if more not in unions:
                unions[more] = None
                waiting.append(more)
    if waiting:
        unions[frozenset().union(*sets)] = None
    for union in unions:
        members = frozenset(b for b in bins if devices[b].cores and union >= {*devices[b].cores})
        if len(members) > 1:
            yield "cores", members, len(union)
