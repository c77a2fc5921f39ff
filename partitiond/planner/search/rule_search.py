"""Improves a plan a few devices at a time with every rule, for models tied beyond one device.

The compiled search does not move models that have to be near others, nor those others. This
search frees a few devices, keeps everything else, and lets CP-SAT decide the freed devices anew,
exactly: surviving fault domains, nearness and limits shared by a host include what stays (a large
neighbourhood search, Shaw 1998).
"""

import itertools
import math
import random
import time
from typing import Final

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.members import Member, fullness, member, rank
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor

NAME: Final = "rules a few devices at a time"
LEAST_FREE: Final = 3
MOST_FREE: Final = 8
ROUND_SECONDS: Final = 1.0
"""Deterministic seconds of CP-SAT for one neighbourhood. Chosen, not measured."""
ROUNDS_PER_SECOND: Final = 1.0
"""Neighbourhoods per second of the limit if the clock may not count. Chosen, not measured."""
SIZES: Final = 4
"""Number of fitting sizes of a model that are tried for each way to run a device. Chosen."""
WAYS_SHARE: Final = 0.6
"""Share of the ways to run a device that are tried. Chosen, not measured."""
EMPTY_ONES: Final = 1
PATIENCE: Final = 6
"""Neighbourhoods of one size without gain before larger ones are tried. Chosen, not measured."""


def search_rules(watch: SolveMonitor, best: Packing, *, by_cost: bool, seconds: float) -> Member:
    """Search for some seconds, or an equivalent number of rounds; the answer is never worse.

    Args:
        watch: the clock and the progress callback.
        best: a packing that keeps all rules; by cost it must also serve all demand.
        by_cost: True to serve all demand at the least cost; False to maximise goodput.
        seconds: duration of the search.
    """
    rng = random.Random(f"rules-{watch.instance.request.seed}")  # noqa: S311
    end, idle, size = time.monotonic() + seconds, 0, LEAST_FREE
    for number in itertools.count():
        left = math.inf if watch.fixed else end - time.monotonic()
        over = watch.fixed and number >= max(1, round(ROUNDS_PER_SECOND * seconds))
        if over or left <= 0 or watch.done or watch.stop():
            break
        before, trial = best, _decided_anew(best, size, rng, by_cost=by_cost, seconds=left)
        # An equally good packing is taken as well.
        best = before if trial is None else min(trial, before, key=lambda p: rank(p, by_cost))
        idle += 1
        if rank(best, by_cost) < rank(before, by_cost):
            watch.take([Member(NAME, best)])
            idle = 0
        elif idle >= PATIENCE:
            most = min(MOST_FREE, len(best.used()))
            sizes = max(1, most - LEAST_FREE + 1)
            idle, size = 0, LEAST_FREE + (size - LEAST_FREE + 1) % sizes
    return member(NAME, best)


def _decided_anew(
    before: Packing, size: int, rng: random.Random, *, by_cost: bool, seconds: float
) -> Packing | None:
    """Return the packing with some devices decided anew; None if nothing was found in time."""
    instance, free = before.instance, sorted(_freed(before, rng, size))
    models = _on(before, free) | {instance.needs[p].model for p in before.lacking()}
    return solve_exact(
        instance,
        Goal.COST if by_cost else Goal.GOODPUT,
        free,
        before,
        deterministic_seconds=ROUND_SECONDS,
        wall_seconds=seconds,
        rest=before,
        allowed=_thinned(instance, free, models, rng),
        seed=rng.randrange(1 << 30),
    ).packing


def _on(packing: Packing, devices: list[int]) -> set[int]:
    """Return the models with a replica on some of the devices."""
    items = packing.instance.items
    return {items[i].model for index in devices for i in packing.loads[index].items}


def _thinned(
    instance: Instance, devices: list[int], models: set[int], rng: random.Random
) -> dict[tuple[int, int], list[int]]:
    """Return a random part of the ways to run the devices, and of each model's sizes there."""
    found: dict[tuple[int, int], list[int]] = {}
    for number in sorted({instance.group_of[index] for index in devices}):
        group = instance.groups[number]
        for k, fit in enumerate(group.fits):
            if rng.random() > WAYS_SHARE:
                continue
            sizes = by_key((instance.items[item].model, item) for item in fit)
            found[number, k] = [
                item
                for model, mine in sizes.items()
                if model in models
                for item in rng.sample(mine, min(SIZES, len(mine)))
            ]
    return found


def _freed(packing: Packing, rng: random.Random, size: int) -> set[int]:
    """Return devices in use, chosen in one of several ways, and some empty ones that differ."""
    used = packing.used()
    chosen = rng.choice((_tied, _emptiest, _random))(packing, used, rng)[:size]
    ties, empty = packing.instance.ties, dict[tuple[int, int], int]()
    for index, load in enumerate(packing.loads):
        if not load.items:
            empty.setdefault((load.group, ties.host_of[index] if ties.by_host else 0), index)
    return {*chosen, *rng.sample([*empty.values()], min(len(empty), EMPTY_ONES))}


def _tied(packing: Packing, used: list[int], rng: random.Random) -> list[int]:
    """Return devices of one tied model and of the models tied to it first, then the other ones."""
    ties, items = packing.instance.ties, packing.instance.items
    there = sorted(ties.beyond_device & _on(packing, used))
    if not there:
        return _random(packing, used, rng)
    one = rng.choice(there)
    kin = {one} | ties.near.get(one, frozenset()) | ties.near_to.get(one, frozenset())
    mine = [i for i in used if any(items[x].model in kin for x in packing.loads[i].items)]
    rest = [i for i in used if i not in set(mine)]
    return rng.sample(mine, len(mine)) + rng.sample(rest, len(rest))


def _emptiest(packing: Packing, used: list[int], rng: random.Random) -> list[int]:
    """Return devices by how little they hold for their price, alternating with random ones."""

    def filled(index: int) -> float:
        price = max(1, packing.group(index).price)
        return fullness(packing, index) / price * rng.uniform(0.7, 1.4)

    ordered = sorted(used, key=filled)
    half = rng.sample(ordered, len(ordered))
    return list(dict.fromkeys(x for pair in zip(ordered, half, strict=True) for x in pair))


def _random(_packing: Packing, used: list[int], rng: random.Random) -> list[int]:
    return rng.sample(used, len(used))
