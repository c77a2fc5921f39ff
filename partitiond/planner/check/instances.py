"""Checks GPUs cut by MIG: the driver's rules of placement, stated anew for the checker."""

import collections
from collections.abc import Iterator
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, MigInstance, MigProfile, headroom_bytes
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.plan.record import Placement
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
    """Yield violations among the GPU instances of one device."""
    spec = HARDWARE.get(device.hardware)
    listed = device.mig_profiles or (spec.mig_profiles if spec is not None else ())
    offered = {p.name: p for p in listed}
    cuts = [(p, p.partition) for p in here if isinstance(p.partition, MigSlice)]
    holder, numbers = _others(device, [cut for _, cut in cuts])
    for p, cut in cuts:
        profile = offered.get(cut.mig_profile)
        if profile is None:
            yield f"{device.id} has no MIG profile {cut.mig_profile}, which {p.replica_id} needs"
            continue
        numbers[profile.name] += 1
        there = _existing(device, cut)
        if device.mig_fixed and (there is None or there.busy or not there.uuid):
            yield f"{device.id} may not be cut anew, and {p.replica_id} has no idle instance there"
        yield from _check_place(device, p, cut, profile, there)
        for number in range(cut.slice_start, cut.slice_start + cut.slice_count):
            if number in holder:
                yield (
                    f"memory slice {number} of {device.id} belongs to both {holder[number]} "
                    f"and {p.replica_id}"
                )
            holder[number] = p.replica_id
    for name, count in numbers.items():
        most = offered[name].max_instances if name in offered else count
        if count > most:
            yield f"{device.id} has {count} instances of {name}, it can have {most}"


def _others(
    device: Device, cuts: list[MigSlice]
) -> tuple[dict[int, str], collections.Counter[str]]:
    """Return memory slices held by others, and instances by MIG profile, beside the placements.

    An existing idle instance may be used as it is, even if another program made it.
    """
    used = [i for i in (_existing(device, cut) for cut in cuts) if i and i.uuid and not i.busy]
    holder = dict.fromkeys(device.occupied_slices, "others")
    for i in device.mig_instances:
        if i.busy:
            holder.update(dict.fromkeys(_slices(i), "others"))
    staying = [i for i in device.mig_instances if i not in used and set(_slices(i)) & set(holder)]
    for i in used:
        for number in _slices(i):
            holder.pop(number, None)
    return holder, collections.Counter(i.mig_profile for i in staying)


def _slices(instance: MigInstance) -> range:
    return range(instance.slice_start, instance.slice_start + instance.slice_count)


def _existing(device: Device, cut: MigSlice) -> MigInstance | None:
    """Return the instance that exists at exactly that place."""
    wanted = (cut.mig_profile, cut.slice_start, cut.slice_count)
    there = device.mig_instances
    return next((i for i in there if (i.mig_profile, i.slice_start, i.slice_count) == wanted), None)


def _check_place(
    device: Device, p: Placement, cut: MigSlice, profile: MigProfile, there: MigInstance | None
) -> Iterator[str]:
    """Check that the driver would make this instance there, and that the replica fits into it."""
    if cut.slice_count != profile.memory_slices:
        yield (
            f"{p.replica_id} covers {cut.slice_count} memory slices of {device.id}, "
            f"{profile.name} has {profile.memory_slices}"
        )
    starts = profile.starts or _STARTS.get((profile.compute_slices, profile.memory_slices), ())
    if there is None and cut.slice_start not in starts:
        yield f"an instance of {profile.name} cannot start at slice {cut.slice_start}"
    memory = (
        there.memory_bytes if there is not None and there.memory_bytes else profile.memory_bytes
    )
    room = memory - headroom_bytes(memory)
    need = max(cut.memory_bytes, p.candidate.memory_bytes)
    if need > room:
        yield (
            f"{p.replica_id} needs {format_bytes(need)}, an instance of {profile.name} has "
            f"{format_bytes(max(0, room))} after headroom"
        )
