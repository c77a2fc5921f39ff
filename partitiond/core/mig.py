"""MIG geometry: which GPU instances fit on one GPU together, and where they start.

A GPU instance covers `memory_slices` consecutive memory slices, from one of the starts that its
MIG profile allows; no two overlap, and a profile may limit how many there are of it. Starts are
those of 8-slice GPUs (A100, H100, H200, B200), as drivers list them: any slice but the last for
one memory slice, even ones for two, 0 and 4 for four (only 0 with four compute slices), 0 for all.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping

from partitiond.core.hardware import HARDWARE, MigProfile, headroom_bytes
from partitiond.core.hardware.kinds import MIG_COMPUTE_SLICES, MIG_MEMORY_SLICES

Place = tuple[str, int, int]
"""MIG profile, first memory slice, slices covered."""


def instance_bytes(profile: MigProfile) -> int:
    """Memory for a footprint in one instance: its own, less the headroom."""
    return max(0, profile.memory_bytes - headroom_bytes(profile.memory_bytes))


def starts_of(profile: MigProfile) -> tuple[int, ...]:
    """First memory slices at which the driver may place an instance of this profile."""
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


@dataclasses.dataclass(frozen=True)
class Geometry:
    """All sets of instances that one kind of GPU can hold beside what occupies it.

    A set is a number, its code: the sum of `radix[i]` times how many there are of profile i. The
    radices leave room for every count that the slices allow and one more. So the codes of two
    sets are never the same while a set's slices add up to no more than a GPU has, nor when one
    instance is added to a set that can be placed: `holds` needs no other test beside it.

    Attributes:
        profiles: sizes on offer.
        radix: worth of one instance of each.
        feasible: whether the set with that number can be placed; subsets of placeable sets can.
        occupied: memory slices that others hold.
    """

    profiles: tuple[MigProfile, ...]
    radix: tuple[int, ...]
    feasible: bytes
    occupied: tuple[int, ...] = ()

    def index(self, name: str) -> int | None:
        """Position of a MIG profile by name; None where the GPU has no such."""
        return self._positions.get(name)

    def step(self, name: str) -> int:
        """What one instance of a MIG profile adds to a set's number."""
        return self.radix[self._positions[name]]

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {profile.name: i for i, profile in enumerate(self.profiles)}

    @functools.cached_property
    def most(self) -> int:
        """Instances that one GPU holds at most."""
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
        """Whether the set can be placed."""
        return 0 <= code < len(self.feasible) and self.feasible[code] == 1

    def code(self, counts: Mapping[str, int]) -> int | None:
        """The number of a set; None where a count is beyond what one GPU ever holds."""
        total = 0
        for profile, radix in zip(self.profiles, self.radix, strict=True):
            count = counts.get(profile.name, 0)
            if count > profile.max_instances:
                return None
            total += radix * count
        return total

    def places(self, counts: Mapping[str, int], kept: tuple[Place, ...] = ()) -> list[Place] | None:
        """Starts for a set of instances, in order; None where it cannot be placed.

        Args:
            counts: instances by MIG profile, those in `kept` included.
            kept: instances that exist and stay where they are.
        """
        left = collections.Counter(counts)
        left.subtract(name for name, _, _ in kept)
        taken = self._taken(kept)
        known = {p.name: p for p in self.profiles}
        if taken is None or min(left.values(), default=0) < 0 or not left.keys() <= known.keys():
            return None
        if any(count > known[name].max_instances for name, count in counts.items()):
            return None
        wanted = [p for p in self.profiles for _ in range(left[p.name])]
        wanted.sort(key=lambda p: -p.memory_slices)
        found = next(_arrangements(tuple(wanted), taken), None)
        return None if found is None else sorted([*kept, *found], key=lambda p: p[1])

    def _taken(self, kept: tuple[Place, ...]) -> int | None:
        """Slices that are not free, as bits; None where what is kept cannot be there."""
        taken = _mask(self.occupied)
        for name, start, size in kept:
            position = self.index(name)
            cover = _cover(start, size)
            if position is None or taken & cover:
                return None
            profile = self.profiles[position]
            if size != profile.memory_slices or start not in starts_of(profile):
                return None
            taken |= cover
        return taken


def _cover(start: int, size: int) -> int:
    return ((1 << size) - 1) << start


def _mask(slices: tuple[int, ...]) -> int:
    return sum(1 << s for s in set(slices))


def _arrangements(wanted: tuple[MigProfile, ...], taken: int) -> Iterator[list[Place]]:
    if not wanted:
        yield []
        return
    head, tail = wanted[0], wanted[1:]
    # From the top down: small instances leave the starts of large ones free.
    for start in reversed(starts_of(head)):
        cover = _cover(start, head.memory_slices)
        if not taken & cover:
            for rest in _arrangements(tail, taken | cover):
                yield [(head.name, start, head.memory_slices), *rest]


def _most_by_slices(profile: MigProfile) -> int:
    by_compute = MIG_COMPUTE_SLICES // profile.compute_slices
    return min(by_compute, MIG_MEMORY_SLICES // profile.memory_slices)


@functools.cache
def geometry_of(hardware: str, occupied: tuple[int, ...] = ()) -> Geometry | None:
    """The geometry of a kind of GPU; None where it has no MIG."""
    spec = HARDWARE.get(hardware)
    if spec is None or not spec.mig_profiles:
        return None
    profiles = spec.mig_profiles
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
            if code // radix[i] % (_most_by_slices(profile) + 2) == profile.max_instances:
                continue
            for start in starts_of(profile):
                cover = _cover(start, profile.memory_slices)
                if not taken & cover:
                    stack.append((code + radix[i], taken | cover))
    return Geometry(profiles, tuple(radix), bytes(feasible), occupied)


def maximal_placements(hardware: str) -> list[frozenset[Place]]:
    """Every set of placed instances to which none can be added (without media variants)."""
    geometry = geometry_of(hardware)
    if geometry is None:
        return []
    plain = [p for p in geometry.profiles if not p.name.endswith("+me")]
    spots = [(p.name, s, p.memory_slices) for p in plain for s in starts_of(p)]
    found: set[frozenset[Place]] = set()

    def grow(chosen: frozenset[Place], taken: int) -> None:
        free = [s for s in spots if not taken & _cover(s[1], s[2])]
        if not free:
            found.add(chosen)
        for spot in free:
            grown = chosen | {spot}
            if grown not in seen:
                seen.add(grown)
                grow(grown, taken | _cover(spot[1], spot[2]))

    seen: set[frozenset[Place]] = set()
    grow(frozenset(), 0)
    return sorted(found, key=sorted)


__all__ = [
    "Geometry",
    "Place",
    "geometry_of",
    "instance_bytes",
    "maximal_placements",
    "starts_of",
]
