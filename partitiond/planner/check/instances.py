"""What a GPU cut by MIG allows: the driver's rules of placement, stated anew for the checker."""

import collections
from collections.abc import Iterator
from typing import Final

from partitiond.core.hardware import HARDWARE, Device, MigProfile, headroom_bytes
from partitiond.core.partition import MigSlice
from partitiond.core.plan import Placement
from partitiond.core.units import format_bytes

_STARTS: Final[dict[tuple[int, int], frozenset[int]]] = {
    # (compute slices, memory slices): first memory slices, as `nvidia-smi mig -lgipp` lists them
    (1, 1): frozenset({0, 1, 2, 3, 4, 5, 6}),
    (1, 2): frozenset({0, 2, 4, 6}),
    (2, 2): frozenset({0, 2, 4}),
    (3, 4): frozenset({0, 4}),
    (4, 4): frozenset({0}),
    (7, 8): frozenset({0}),
}


def check_instances(device: Device, here: tuple[Placement, ...]) -> Iterator[str]:
    """Violations among the GPU instances of one device."""
    spec = HARDWARE.get(device.hardware)
    offered = {p.name: p for p in (spec.mig_profiles if spec is not None else ())}
    holder = dict.fromkeys(device.occupied_slices, "others")
    numbers: collections.Counter[str] = collections.Counter()
    for p in here:
        cut = p.partition
        if not isinstance(cut, MigSlice):
            continue
        profile = offered.get(cut.mig_profile)
        if profile is None:
            yield f"{device.id} has no MIG profile {cut.mig_profile}, which {p.replica_id} needs"
            continue
        numbers[profile.name] += 1
        yield from _check_place(device, p, cut, profile)
        for number in range(cut.slice_start, cut.slice_start + cut.slice_count):
            if number in holder:
                yield (
                    f"memory slice {number} of {device.id} belongs to both {holder[number]} "
                    f"and {p.replica_id}"
                )
            holder[number] = p.replica_id
    for name, count in numbers.items():
        most = offered[name].max_instances
        if count > most:
            yield f"{device.id} has {count} instances of {name}, it can have {most}"


def _check_place(device: Device, p: Placement, cut: MigSlice, profile: MigProfile) -> Iterator[str]:
    """Whether the driver would make this instance there, and whether the replica fits into it."""
    if cut.slice_count != profile.memory_slices:
        yield (
            f"{p.replica_id} covers {cut.slice_count} memory slices of {device.id}, "
            f"{profile.name} has {profile.memory_slices}"
        )
    if cut.slice_start not in _STARTS.get((profile.compute_slices, profile.memory_slices), ()):
        yield f"an instance of {profile.name} cannot start at slice {cut.slice_start}"
    room = profile.memory_bytes - headroom_bytes(profile.memory_bytes)
    need = max(cut.memory_bytes, p.candidate.memory_bytes)
    if need > room:
        yield (
            f"{p.replica_id} needs {format_bytes(need)}, an instance of {profile.name} has "
            f"{format_bytes(max(0, room))} after headroom"
        )
