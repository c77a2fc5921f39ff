"""Where GPU instances start: those that exist stay, the others find a place beside them."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable

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
    for staying in _subsets(running, wishes):
        kept = tuple(place for n in staying if (place := wishes[n].kept) is not None)
        places = geometry.places(counts, kept)
        if places is not None:
            return _hand_out(wishes, staying, places)
    raise ValueError(f"the set {dict(counts)} cannot be placed")


def _subsets(running: list[int], wishes: list[SliceWish]) -> Iterable[tuple[int, ...]]:
    """All sets of those that may stay, the one with most bytes first. A GPU holds seven."""
    every = [
        chosen
        for size in range(len(running) + 1)
        for chosen in itertools.combinations(running, size)
    ]
    every.sort(key=lambda chosen: (-sum(1 + wishes[n].load_bytes for n in chosen), chosen))
    return every


def _hand_out(
    wishes: list[SliceWish], staying: tuple[int, ...], places: list[Place]
) -> list[Place]:
    found: dict[int, Place] = {}
    free = list(places)
    for n in staying:
        kept = wishes[n].kept
        assert kept is not None
        found[n] = kept
        free.remove(kept)
    for n, wish in enumerate(wishes):
        if n not in found:
            found[n] = next(place for place in free if place[0] == wish.mig_profile)
            free.remove(found[n])
    return [found[n] for n in range(len(wishes))]
