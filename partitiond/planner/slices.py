"""Where GPU instances start: those that exist stay, the others find a place beside them."""

import collections
import dataclasses
import itertools

from partitiond.core.mig import Geometry, Place


@dataclasses.dataclass(frozen=True, slots=True)
class SliceWish:
    """One replica's need of a GPU instance.

    Attributes:
        mig_profile: of the instance.
        kept: the instance it runs in now; None for one that starts.
        load_bytes: what it has to load when it moves.
    """

    mig_profile: str
    kept: Place | None = None
    load_bytes: int = 0


def choose_slices(geometry: Geometry, wishes: list[SliceWish]) -> list[Place]:
    """A place for every wish, in order; of what runs as many bytes stay as can.

    Raises:
        ValueError: the wishes are no set that the geometry can hold.
    """
    counts = collections.Counter(wish.mig_profile for wish in wishes)
    running = [n for n, wish in enumerate(wishes) if wish.kept is not None]
    # All sets of those that may stay, the one with most bytes first. A GPU holds seven.
    sizes = range(len(running) + 1)
    subsets = [chosen for size in sizes for chosen in itertools.combinations(running, size)]
    subsets.sort(key=lambda chosen: (-sum(1 + wishes[n].load_bytes for n in chosen), chosen))
    for staying in subsets:
        kept = {n: place for n in staying if (place := wishes[n].kept) is not None}
        places = geometry.places(counts, tuple(kept.values()))
        if places is not None:
            return _hand_out(wishes, kept, places)
    raise ValueError(f"the set {dict(counts)} cannot be placed")


def _hand_out(wishes: list[SliceWish], kept: dict[int, Place], places: list[Place]) -> list[Place]:
    free = list(places)
    for place in kept.values():
        free.remove(place)
    found = []
    for n, wish in enumerate(wishes):
        place = kept.get(n) or next(one for one in free if one[0] == wish.mig_profile)
        if n not in kept:
            free.remove(place)
        found.append(place)
    return found
