"""Computes MIG geometry: which GPU instances fit on one GPU together, and where they start.

A GPU instance covers `memory_slices` consecutive memory slices, from one of the starts that its
MIG profile allows. Instances do not overlap, and a profile may limit how many of it there are. The
starts are those that drivers list for 8-slice GPUs (A100, H100, H200, B200): any slice but the last
for one memory slice, even slices for two, 0 and 4 for four (only 0 with four compute slices), and 0
for all.

Instances that exist narrow the choice. One that another party made stays where it is: a replica can
use it while no process runs in it, and no other instance can take its slices. If the geometry is
fixed, only existing instances can be used. Both cases merely restrict the starts of a profile on
that GPU, so one search serves all three cases.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import (
    MIG_COMPUTE_SLICES,
    MIG_MEMORY_SLICES,
    Device,
    MigInstance,
    MigProfile,
    headroom_bytes,
)
from partitiond.core.units import Bytes

Place = tuple[str, int, int]
"""MIG profile, first memory slice, slices covered."""


def instance_bytes(profile: MigProfile) -> int:
    """Return the memory for a footprint in one instance: the instance's memory less the
    headroom.
    """
    return max(0, profile.memory_bytes - headroom_bytes(profile.memory_bytes))


def starts_of(profile: MigProfile) -> tuple[int, ...]:
    """Return the first memory slices at which the driver may place an instance of this profile."""
    if profile.starts:
        return profile.starts
    match profile.memory_slices, profile.compute_slices:
        case 1, _:
            return tuple(range(MIG_MEMORY_SLICES - 1))
        case 2, 1:
            return (0, 2, 4, 6)
        case 2, _:
            return (0, 2, 4)
        case 4, 3:
            return (0, 4)
        case _:
            return (0,)


def profiles_of(device: Device) -> tuple[MigProfile, ...]:
    """Return sizes of GPU instance on one device: the driver's list, or else the catalog's."""
    spec = HARDWARE.get(device.hardware)
    return device.mig_profiles or (spec.mig_profiles if spec is not None else ())


def place_of(instance: MigInstance) -> Place:
    """Return the place of an instance."""
    return instance.mig_profile, instance.slice_start, instance.slice_count


def usable_instances(device: Device) -> tuple[MigInstance, ...]:
    """Return the existing instances that a replica can be put into as they are."""
    return tuple(i for i in device.mig_instances if i.uuid and not i.busy)


def covered_slices(places: tuple[Place, ...]) -> frozenset[int]:
    """Return the memory slices that these instances cover."""
    return frozenset(s for _, start, size in places for s in range(start, start + size))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """All sets of instances that one kind of GPU can hold beside the slices that are held already.

    A set is represented by a number, its code: the sum of `radix[i]` times the count of profile i.
    The radices leave room for every count that the slices allow and one more. Two sets therefore
    never share a code while the slices of a set add up to no more than a GPU has, nor when one
    instance is added to a set that can be placed. So `holds` needs no further test.

    Attributes:
        profiles: sizes on offer.
        radix: amount that one instance of each profile adds to a code.
        feasible: by code, whether the set can be placed; subsets of placeable sets can.
        occupied: memory slices that are held already.
        starts: for each profile, the first slices that it can have on this GPU; empty if nothing
            restricts them.
    """

    profiles: tuple[MigProfile, ...]
    radix: tuple[int, ...]
    feasible: bytes
    occupied: tuple[int, ...] = ()
    starts: tuple[tuple[int, ...], ...] = ()

    def index(self, name: str) -> int | None:
        """Return the position of a MIG profile by name; None if the GPU does not offer it."""
        return self._positions.get(name)

    def step(self, name: str) -> int:
        """Return the amount that one instance of a MIG profile adds to a code."""
        return self.radix[self._positions[name]]

    def starts_here(self, position: int) -> tuple[int, ...]:
        """Return the first slices that a profile can have on this GPU."""
        return self.starts[position] if self.starts else starts_of(self.profiles[position])

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {profile.name: i for i, profile in enumerate(self.profiles)}

    @functools.cached_property
    def most(self) -> int:
        """Most instances that one GPU can hold."""
        return max(sum(counts) for counts in self.sets)

    @functools.cached_property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """All sets that can be placed, as counts in step with `profiles`."""
        codes = (code for code, placeable in enumerate(self.feasible) if placeable)
        return tuple(self._counts(code) for code in codes)

    def _counts(self, code: int) -> tuple[int, ...]:
        upper = (*self.radix[1:], len(self.feasible))
        return tuple(code % up // low for low, up in zip(self.radix, upper, strict=True))

    def holds(self, code: int) -> bool:
        """Return whether the set with this code can be placed."""
        return 0 <= code < len(self.feasible) and self.feasible[code] == 1

    def code(self, counts: Mapping[str, int]) -> int | None:
        """Return the code of a set; None if a count is beyond what one GPU ever holds."""
        total = 0
        for profile, radix in zip(self.profiles, self.radix, strict=True):
            count = counts.get(profile.name, 0)
            if count > _most_in_code(profile):
                return None
            total += radix * count
        return total

    def places(self, counts: Mapping[str, int], kept: tuple[Place, ...] = ()) -> list[Place] | None:
        """Return places for a set of instances, ordered by start; None if the set cannot be placed.

        Args:
            counts: instances by MIG profile, those in `kept` included.
            kept: instances that exist and stay where they are.
        """
        left = collections.Counter(counts)
        left.subtract(name for name, _, _ in kept)
        taken = self._taken(kept)
        if taken is None or min(left.values(), default=0) < 0:
            return None
        if not left.keys() <= self._positions.keys():
            return None
        if any(n > self.profiles[self._positions[p]].max_instances for p, n in counts.items()):
            return None
        wanted = [i for i, p in enumerate(self.profiles) for _ in range(left[p.name])]
        wanted.sort(key=lambda i: -self.profiles[i].memory_slices)
        found = next(self._arrangements(tuple(wanted), taken), None)
        return None if found is None else sorted([*kept, *found], key=lambda p: p[1])

    def _taken(self, kept: tuple[Place, ...]) -> int | None:
        """Return slices that are not free, as bits; None if the kept instances cannot be there."""
        taken = _mask(self.occupied)
        for name, start, size in kept:
            position = self.index(name)
            cover = _cover(start, size)
            if position is None or taken & cover:
                return None
            if size != self.profiles[position].memory_slices:
                return None
            if start not in self.starts_here(position):
                return None
            taken |= cover
        return taken

    def _arrangements(self, wanted: tuple[int, ...], taken: int) -> Iterator[list[Place]]:
        if not wanted:
            yield []
            return
        head, tail = wanted[0], wanted[1:]
        profile = self.profiles[head]
        # From the top down, because small instances then leave the starts of large ones free.
        for start in reversed(self.starts_here(head)):
            cover = _cover(start, profile.memory_slices)
            if not taken & cover:
                for rest in self._arrangements(tail, taken | cover):
                    yield [(profile.name, start, profile.memory_slices), *rest]


def _cover(start: int, size: int) -> int:
    return ((1 << size) - 1) << start


def _mask(slices: tuple[int, ...]) -> int:
    return sum(1 << s for s in set(slices))


def _most_by_slices(profile: MigProfile) -> int:
    by_compute = MIG_COMPUTE_SLICES // max(1, profile.compute_slices)
    return min(by_compute, MIG_MEMORY_SLICES // max(1, profile.memory_slices))


def _most_in_code(profile: MigProfile) -> int:
    """Return the most of a profile that a code has room for; a driver may allow more than the
    slices do.
    """
    return min(profile.max_instances, _most_by_slices(profile) + 1)


@functools.cache
def geometry_of(hardware: str, occupied: tuple[int, ...] = ()) -> Geometry | None:
    """Return the geometry of a kind of GPU; None if it has no MIG."""
    spec = HARDWARE.get(hardware)
    if spec is None or not spec.mig_profiles:
        return None
    return _geometry(spec.mig_profiles, (), occupied)


def geometry_from(profiles: tuple[MigProfile, ...]) -> Geometry:
    """Return the geometry of an empty GPU that offers these sizes."""
    return _geometry(profiles, (), ())


def geometry_on(device: Device) -> Geometry | None:
    """Return the geometry of one device as it is; None if it has no MIG.

    Sizes that the driver lists take precedence over the catalog. Instances of other parties stay,
    and can be used while no process runs in them. If the geometry is fixed, only existing ones can.
    """
    if not device.mig_instances and not device.mig_fixed and not device.mig_profiles:
        return geometry_of(device.hardware, tuple(sorted(set(device.occupied_slices))))
    profiles = profiles_of(device)
    if not profiles:
        return None
    return _geometry_beside(
        profiles,
        device.mig_instances,
        tuple(sorted(set(device.occupied_slices))),
        device.mig_fixed,
        usable_instances(device),
    )


@functools.lru_cache(maxsize=512)
def _geometry_beside(
    profiles: tuple[MigProfile, ...],
    instances: tuple[MigInstance, ...],
    occupied: tuple[int, ...],
    fixed: bool,
    usable: tuple[MigInstance, ...],
) -> Geometry:
    """Return the geometry beside instances that exist; see `geometry_on`."""
    usable_places = {place_of(i) for i in usable}
    busy = tuple(place_of(i) for i in instances if i.busy)
    blocked = covered_slices(busy) | frozenset(occupied)
    starts = []
    for profile in profiles:
        name, size = profile.name, profile.memory_slices
        there = {
            start for start in range(MIG_MEMORY_SLICES) if (name, start, size) in usable_places
        }
        staying = sum(i.mig_profile == name and _stays(i, blocked) for i in instances)
        # Instances that stay keep the media engines, so free slices allow no further such instance.
        free = () if fixed or staying >= profile.max_instances else starts_of(profile)
        made = {s for s in free if blocked.isdisjoint(range(s, s + size))}
        starts.append(tuple(sorted(there | made)))
    left = blocked - covered_slices(tuple(usable_places))
    return _geometry(
        tuple(_as_it_exists(p, usable) for p in profiles), tuple(starts), tuple(sorted(left))
    )


def _stays(instance: MigInstance, blocked: frozenset[int]) -> bool:
    """Return whether an instance has to stay because it covers a blocked slice."""
    return not blocked.isdisjoint(covered_slices((place_of(instance),)))


def _as_it_exists(profile: MigProfile, usable: tuple[MigInstance, ...]) -> MigProfile:
    """Return a profile with the memory of the smallest instance of it that a replica might get."""
    sizes = [i.memory_bytes for i in usable if i.mig_profile == profile.name and i.memory_bytes]
    return dataclasses.replace(profile, memory_bytes=Bytes(min([profile.memory_bytes, *sizes])))


@functools.lru_cache(maxsize=128)
def _geometry(
    profiles: tuple[MigProfile, ...],
    starts: tuple[tuple[int, ...], ...],
    occupied: tuple[int, ...],
) -> Geometry:
    here = starts or tuple(starts_of(p) for p in profiles)
    radix, total = [], 1
    for profile in profiles:
        radix.append(total)
        total *= _most_by_slices(profile) + 2
    feasible = bytearray(total)
    seen: set[tuple[int, int]] = set()
    stack = [(0, _mask(occupied))]
    while stack:
        code, taken = stack.pop()
        if (code, taken) in seen:
            continue
        seen.add((code, taken))
        feasible[code] = 1
        for i, profile in enumerate(profiles):
            count = code // radix[i] % (_most_by_slices(profile) + 2)
            if count >= min(profile.max_instances, _most_by_slices(profile)):
                continue
            for start in here[i]:
                cover = _cover(start, profile.memory_slices)
                if not taken & cover:
                    stack.append((code + radix[i], taken | cover))
    return Geometry(profiles, tuple(radix), bytes(feasible), occupied, starts)
