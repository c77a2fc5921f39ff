"""Packs each model's cheapest covering set, device by device.

At the bound's prices every model first gets the set of replicas that covers it most cheaply, over
whole replicas. The sets are then packed one device at a time: of the replicas that still fit,
the one whose use of resources points most nearly where the device's free resources point, each
weighted by what all waiting replicas need of it. (The dot-product rule of vector bin packing,
Panigrahy et al. 2011, without its preference for large items: that one filled the first devices
with the few replicas that are large in one resource and needed 33 where this needs 30.)
"""

import math
import random
from collections.abc import Collection

from partitiond.planner.bound import RESOURCES, Entry
from partitiond.planner.greedy import (
    Guide,
    Strategy,
    cover,
    drop_surplus,
    empty_devices,
    in_order,
    most_goodput,
    place_one,
)
from partitiond.planner.instance import Instance, Need
from partitiond.planner.packing import Packing
from partitiond.planner.ruled import place_ruled

CELLS = 200
"""Steps into which a demand is cut; rates are rounded down to them, so the set really covers."""

Place = tuple[int, int]


def pack_covers(
    instance: Instance,
    guide: Guide,
    *,
    places: Collection[Place] | None,
    noise: float,
    rng: random.Random,
) -> Packing | None:
    """A packing that covers everything, or None.

    Args:
        instance: the question.
        guide: worth of entries.
        places: ways to run devices that may be chosen; None for all. Where a model fits none of
            them, all are open to it.
        noise: how much worths are shaken, 0 for not at all.
        rng: source of the shaking.
    """
    packing, waiting = Packing(instance), []
    place_ruled(packing)
    for need in (n for n in instance.needs if n.model not in instance.ties.beyond_device):
        allowed = _allowed(guide, need, places)
        waiting.extend(cheapest_set(guide, need, allowed, noise, rng))
    pack(packing, waiting)
    order = in_order(instance, guide, 0.0, rng)
    if not cover(packing, guide, order, 0.0, may_open=True):
        return None
    drop_surplus(packing)
    while empty_devices(packing, guide, order):
        pass
    return packing


def pack_goodput(
    instance: Instance,
    guide: Guide,
    *,
    places: Collection[Place] | None,
    noise: float,
    rng: random.Random,
) -> Packing:
    """As `pack_covers` for the models that give most goodput per worth, as far as devices reach."""
    rated = any(need.rated for need in instance.needs)
    sets: list[tuple[float, int, list[Entry]]] = []
    for need in (n for n in instance.needs if n.rated and rated):
        entries = cheapest_set(guide, need, _allowed(guide, need, places), noise, rng)
        worth = sum(guide.of(e) for e in entries)
        if worth > 0:
            merit = need.worth * min(need.rate, sum(e.rate for e in entries)) / worth
            sets.append((-merit * (1 + noise * rng.uniform(-1, 1)), need.model, entries))
    used, chosen = [0.0] * len(RESOURCES), list[Entry]()
    for _, _, entries in sorted(sets, key=lambda s: (s[0], s[1])):
        if max(used) >= len(instance.group_of):
            break
        chosen.extend(entries)
        used = [u + sum(e.use[r] for e in entries) for r, u in enumerate(used)]
    packing = Packing(instance)
    for need in instance.needs:
        while packing.counts[need.model] < need.min_replicas:
            if not place_one(packing, guide, need, reluctance=0.0):
                break
        for _ in range(packing.counts[need.model]):
            mine = next((e for e in chosen if e.model == need.model), None)
            if mine is not None:
                chosen.remove(mine)
    pack(packing, chosen)
    return most_goodput(instance, guide, packing, Strategy(0.0, 0.0), rng)


def _allowed(guide: Guide, need: Need, places: Collection[Place] | None) -> list[Entry]:
    """Entries in the places, or all where none is."""
    mine = list(guide.entries[need.model])
    return [e for e in mine if places is None or (e.group, e.option) in places] or mine


def cheapest_set(
    guide: Guide, need: Need, ways: list[Entry], noise: float, rng: random.Random
) -> list[Entry]:
    """Whole replicas that cover a need at the least worth, by dynamic programming."""
    cost = {e: guide.of(e) * (1 + noise * rng.uniform(-1, 1)) for e in ways}
    cheapest = min(ways, key=lambda e: cost[e])
    if need.rate == 0:
        return [cheapest] * need.min_replicas
    step = max(1, need.rate // CELLS)
    cells = -(-need.rate // step)
    steps = [(min(cells, e.rate // step), e) for e in ways if e.rate >= step]
    least: list[tuple[float, Entry | None, int]] = [(0.0, None, 0)]
    for amount in range(1, cells + 1):
        best: tuple[float, Entry | None, int] = (math.inf, None, 0)
        for cell, entry in steps:
            before = max(0, amount - cell)
            if least[before][0] + cost[entry] < best[0]:
                best = (least[before][0] + cost[entry], entry, before)
        least.append(best)
    chosen: list[Entry] = []
    amount = cells
    while amount > 0:
        _, last, amount = least[amount]
        if last is None:
            break
        chosen.append(last)
    chosen += [cheapest] * (need.min_replicas - len(chosen))
    return chosen[: need.max_replicas]


def pack(packing: Packing, entries: list[Entry]) -> None:
    """Fill empty devices with the entries, the places with the most first; some may stay out."""
    waiting: dict[Place, list[Entry]] = {}
    for entry in entries:
        waiting.setdefault((entry.group, entry.option), []).append(entry)
    for place in sorted(waiting, key=lambda p: (-len(waiting[p]), p)):
        left = sorted(waiting[place], key=lambda e: (-max(e.use), e.item))
        for index in packing.instance.groups[place[0]].bins:
            if left and not packing.loads[index].items:
                _fill_device(packing, index, place[1], left)


def _fill_device(packing: Packing, index: int, option: int, left: list[Entry]) -> None:
    """Fill one device; what it takes leaves `left`."""
    weights = [sum(e.use[r] for e in left) for r in range(len(RESOURCES))]
    free = [1.0] * len(RESOURCES)
    while left:
        best, merit = None, -1.0
        for entry in {e.item: e for e in left}.values():
            match = _match(entry, free, weights)
            if match > merit and packing.fits(index, entry.item, option):
                best, merit = entry, match
        if best is None:
            return
        packing.add(index, best.item, option)
        left.remove(best)
        free = [f - u for f, u in zip(free, best.use, strict=True)]


def _match(entry: Entry, free: list[float], weights: list[float]) -> float:
    """Cosine between what the entry uses and what is free (without the latter's length)."""
    along = sum(u * f * w for u, f, w in zip(entry.use, free, weights, strict=True))
    length = math.sqrt(sum(u * u * w for u, w in zip(entry.use, weights, strict=True)))
    return along / length if length > 0 else 0.0
