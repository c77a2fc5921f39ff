"""All the ways to fill a GPU with MIG instances."""

from partitiond.core.mig.geometry import Place, geometry_of, starts_of


def covered(place: Place) -> int:
    """The memory slices that an instance covers, as bits."""
    _, start, slices = place
    return ((1 << slices) - 1) << start


def maximal_placements(hardware: str) -> list[frozenset[Place]]:
    """Every set of placed instances that leaves no room for one more (without media
    variants).
    """
    geometry = geometry_of(hardware)
    assert geometry is not None
    plain = [p for p in geometry.profiles if not p.name.endswith("+me")]
    spots = [(p.name, s, p.memory_slices) for p in plain for s in starts_of(p)]
    found: set[frozenset[Place]] = set()

    def grow(chosen: frozenset[Place], taken: int) -> None:
        free = [s for s in spots if not taken & covered(s)]
        if not free:
            found.add(chosen)
        for spot in free:
            grown = chosen | {spot}
            if grown not in seen:
                seen.add(grown)
                grow(grown, taken | covered(spot))

    seen: set[frozenset[Place]] = set()
    grow(frozenset(), 0)
    return sorted(found, key=sorted)
