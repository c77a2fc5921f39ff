"""Reads geometries as operators write them: "3g.40gb@4,2g.20gb@2,1g.10gb"."""

import collections
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.changes import illegal
from partitiond.core.mig.geometry import Place, geometry_from
from partitiond.core.mig.names import canonical, read_name

EMPTY: Final = "none"
"""The text for a GPU without instances."""

Asked = tuple[str, int | None]
"""MIG profile, and its first slice if one is given."""


def parse_geometry(text: str) -> tuple[Asked, ...]:
    """Read comma-separated MIG profiles with their first slices; "none" for no instances.

    Raises:
        SpecError: an entry is neither "PROFILE" nor "PROFILE@SLICE".
    """
    if text.strip().lower() == EMPTY:
        return ()
    found: list[Asked] = []
    for entry in text.split(","):
        name, at, start = entry.strip().partition("@")
        read = read_name(name)
        said = start.strip()
        if read is None or not read.whole or (at and not (said.isascii() and said.isdigit())):
            raise SpecError(
                f"{entry.strip()!r} is no MIG instance.",
                hint='Write a geometry as "3g.40gb@4,2g.20gb@2,1g.10gb": profiles, with first '
                'memory slices where they matter; or "none".',
            )
        found.append((canonical(name), int(said) if at else None))
    return tuple(found)


def places_for(
    profiles: Sequence[MigProfile], asked: Sequence[Asked], there: Collection[Place]
) -> tuple[Place, ...]:
    """Choose places; an instance without a slice takes the place of an existing one if it can.

    Args:
        profiles: sizes on offer.
        asked: instances that are wanted.
        there: instances that exist.

    Raises:
        SpecError: the GPU does not offer a profile, or the instances do not fit together.
    """
    sizes = {profile.name: profile.memory_slices for profile in profiles}
    for name, _ in asked:
        if name not in sizes:
            raise SpecError(
                f"there is no MIG profile {name}.",
                hint=f"The GPU offers {', '.join(sizes) or 'none'}.",
            )
    pinned = tuple((name, start, sizes[name]) for name, start in asked if start is not None)
    wrong = illegal(profiles, pinned)
    if wrong:
        raise SpecError(f"{wrong}.", hint="`nvidia-smi mig -lgipp` lists what a GPU offers.")
    counts = collections.Counter(name for name, _ in asked)
    found = choose_places(profiles, counts, there, pinned)
    if found is None:
        raise SpecError(
            "the instances do not fit on one GPU together.",
            hint="Ask for fewer or smaller ones; `nvidia-smi mig -lgipp` lists all places.",
        )
    return found


def choose_places(
    profiles: Sequence[MigProfile],
    counts: Mapping[str, int],
    there: Collection[Place],
    pinned: tuple[Place, ...] = (),
) -> tuple[Place, ...] | None:
    """Choose places for the instances; as many as possible are where instances are now.

    Args:
        profiles: sizes on offer.
        counts: instances by profile, those in `pinned` included.
        there: instances that exist.
        pinned: places that are given.

    Returns:
        The places; None if the instances do not fit on one GPU together.
    """
    geometry = geometry_from(tuple(profiles))
    ordered = sorted(set(there) - set(pinned), key=lambda p: p[1])
    kept = [place for place in ordered if place[0] in counts]
    for size in range(len(kept), -1, -1):
        for staying in itertools.combinations(kept, size):
            found = geometry.places(counts, (*pinned, *staying))
            if found is not None:
                return tuple(found)
    return None
