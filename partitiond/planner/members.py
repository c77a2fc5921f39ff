"""The simple members of the portfolio, and what every member's packing goes through."""

import dataclasses
import itertools
import random
from collections.abc import Iterable
from typing import Final

from partitiond.planner.bound import Bound, Entry
from partitiond.planner.covers import pack_covers, pack_goodput
from partitiond.planner.greedy import (
    Guide,
    Strategy,
    drop_surplus,
    first_fit,
    most_goodput,
    serve_all,
    strategies,
)
from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Stop, never

LEAST_USED: Final = 0.3
"""Devices run a way in the relaxation, from which on a start uses that way alone."""
COVER_NOISE: Final = 0.15
MOST_STARTS: Final = 12
"""Greedy starts where a solver that proves comes next; more of them hardly ever add anything."""
EPSILON: Final = 1e-6
KEPT: Final = "kept what runs"
EXACT_WITH_MOVES: Final = "exact with moves (CP-SAT)"


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One answer, and what found it."""

    name: str
    packing: Packing


def member(name: str, packing: Packing) -> Member:
    """A packing without surplus, every device at the lowest level that holds what is on it."""
    replicas = -1
    while replicas != sum(packing.counts.values()):
        replicas = sum(packing.counts.values())
        packing.settle()
        drop_surplus(packing, rated_only=True)
    packing.settle()
    return Member(name, packing)


def baselines(instance: Instance, entries: dict[int, tuple[Entry, ...]]) -> list[Member]:
    """First-fit and best-fit decreasing, as they are."""
    return [
        member(name, first_fit(instance, entries, best=best))
        for best, name in ((False, "first-fit decreasing"), (True, "best-fit decreasing"))
    ]


def greedy_cost(
    instance: Instance, guide: Guide, bound: Bound, most: int = MOST_STARTS, stop: Stop = never
) -> list[Member]:
    """Both greedy packers from `most` starts at most, until one reaches the bound or a stop."""
    found: list[Member] = []
    least = bound.value or 0.0
    for number, strategy, places, noise in itertools.islice(_starts(bound, instance), most):
        rng = random.Random(f"{instance.request.seed}-{number}")  # noqa: S311
        by_set = pack_covers(instance, guide, places=places, noise=noise, rng=rng)
        by_model = serve_all(instance, guide, Packing(instance), strategy, rng)
        for name, packing in (("greedy by covers", by_set), ("greedy by prices", by_model)):
            if packing is not None:
                found.append(member(name, packing))
        if stop() or any(m.packing.cost() <= least + EPSILON for m in found[-2:]):
            break
    return found


def greedy_goodput(
    instance: Instance, guide: Guide, bound: Bound, stop: Stop = never
) -> list[Member]:
    """The same for the most goodput."""
    found: list[Member] = []
    for number, strategy, places, noise in _starts(bound, instance):
        rng = random.Random(f"{instance.request.seed}-{number}")  # noqa: S311
        packing = pack_goodput(instance, guide, places=places, noise=noise, rng=rng)
        found.append(member("greedy by covers", packing))
        if stop():
            break
        packing = most_goodput(instance, guide, Packing(instance), strategy, rng)
        found.append(member("greedy by prices", packing))
    return found


def _starts(
    bound: Bound, instance: Instance
) -> Iterable[tuple[int, Strategy, set[tuple[int, int]] | None, float]]:
    """Number, strategy, places and noise of each start."""
    places = _place_choices(bound)
    chosen = strategies(bound, instance.request.time_limit_seconds)[:MOST_STARTS]
    for number, strategy in enumerate(chosen):
        noise = 0.0 if number < len(places) else COVER_NOISE
        yield number, strategy, places[number % len(places)], noise


def _place_choices(bound: Bound) -> list[set[tuple[int, int]] | None]:
    """Ways to run devices that one start may use: all, each that the relaxation uses, those."""
    used = sorted((p for p, n in bound.used.items() if n >= LEAST_USED), key=bound.used.__getitem__)
    each: list[set[tuple[int, int]] | None] = [{place} for place in reversed(used)]
    return [None, *each, set(used)] if len(used) > 1 else [None]
