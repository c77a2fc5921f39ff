"""Chooses where GPU instances start: existing ones stay, new ones get a place beside them."""

import collections
import dataclasses
import itertools

from partitiond.core.mig.geometry import Geometry, Place


@dataclasses.dataclass(frozen=True, slots=True)
class SliceWish:
    """One replica's need for a GPU instance.

    Attributes:
        mig_profile: MIG profile of the instance.
        kept: the instance it runs in now; None for a replica that starts.
        load_bytes: bytes it has to load if it moves.
    """

    mig_profile: str
    kept: Place | None = None
    load_bytes: int = 0


def choose_slices(geometry: Geometry, wishes: list[SliceWish]) -> list[Place]:
    """Return a place for every wish, in order; as many loaded bytes as possible stay in place.

    Raises:
        ValueError: the wishes are no set that the geometry can hold.
    """
    counts = collections.Counter(wish.mig_profile for wish in wishes)
    running = [n for n, wish in enumerate(wishes) if wish.kept is not None]
    # All sets of replicas that may stay, the one with most bytes first. A GPU holds seven.
    sizes = range(len(running) + 1)
    subsets = [chosen for size in sizes for chosen in itertools.combinations(running, size)]
    subsets.sort(key=lambda chosen: (-sum(1 + wishes[n].load_bytes for n in chosen), chosen))
    for staying in subsets:
        kept = {n: place for n in staying if (place := wishes[n].kept) is not None}
        places = geometry.places(counts, tuple(kept.values()))
        if places is not None:
            fresh = [place for place in places if place not in kept.values()]
            left = {name: iter([p for p in fresh if p[0] == name]) for name in counts}
            return [
                kept[n] if n in kept else next(left[wish.mig_profile])
                for n, wish in enumerate(wishes)
            ]
    raise ValueError(f"the set {dict(counts)} cannot be placed")
