"""Improves a plan a few devices at a time, with every rule: for models tied beyond one device.

The compiled search leaves such models where they are. Here a few devices are freed, all else
stays, and CP-SAT decides them anew, exactly: which fault domains survive, who is near to whom,
and what hosts share count with what stays (a large neighbourhood search, Shaw 1998).
"""

import dataclasses
import random
import time
from collections.abc import Iterator
from typing import Final

from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.instance import Instance
from partitiond.planner.members import Member, member
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Watch

NAME: Final = "rules a few devices at a time"
LEAST_FREE: Final = 3
MOST_FREE: Final = 8
ROUND_SECONDS: Final = 1.0
"""Deterministic seconds of CP-SAT for one neighbourhood."""
ROUNDS_PER_SECOND: Final = 1.0
"""Neighbourhoods per second of the time limit where the clock may not count."""
SIZES: Final = 4
"""Sizes of a model that are tried in one way to run a device, of those that fit."""
WAYS_SHARE: Final = 0.6
"""Share of the ways to run a device that are tried."""
EMPTY_ONES: Final = 1
PATIENCE: Final = 6
"""Neighbourhoods of one size without gain until the next are larger."""


@dataclasses.dataclass(slots=True)
class RuleSearch:
    """One search; `best` never gets worse.

    Args:
        watch: clock, and who is told.
        best: a packing that keeps all rules.
        goal: cost or goodput.
    """

    watch: Watch
    best: Packing
    goal: Goal
    rounds: int = 0
    size: int = LEAST_FREE

    def run(self, seconds: float) -> Member:
        """Search for so long, or as many rounds as stand for it."""
        rng = random.Random(f"rules-{self.watch.instance.request.seed}")  # noqa: S311
        end = time.monotonic() + seconds
        most = max(1, round(ROUNDS_PER_SECOND * seconds)) if self.watch.fixed else None
        idle = 0
        while not (self.watch.done or self.watch.stopped):
            left = end - time.monotonic()
            if (most is None and left <= 0) or self.rounds == most:
                break
            self.rounds += 1
            if self._round(rng, float("inf") if most is not None else left):
                idle = 0
                continue
            idle += 1
            if idle >= PATIENCE:
                idle, self.size = 0, LEAST_FREE + (self.size - LEAST_FREE + 1) % _sizes(self.best)
        return member(NAME, self.best)

    def _round(self, rng: random.Random, seconds: float) -> bool:
        """Decide some devices anew; whether that is better. As good is taken, too."""
        instance, before = self.watch.instance, self.best
        free = sorted(_freed(before, rng, self.size))
        models = _on(before, free) | {instance.needs[p].model for p in before.lacking()}
        found = solve_exact(
            instance,
            self.goal,
            free,
            before,
            deterministic_seconds=ROUND_SECONDS,
            wall_seconds=seconds,
            rest=before,
            allowed=_thinned(instance, free, models, rng),
            seed=rng.randrange(1 << 30),
        )
        if found.packing is None or not self._no_worse(found.packing):
            return False
        self.best = found.packing
        if self._value(self.best) <= self._value(before):
            return False
        self.watch.found(self._told(self.best), NAME)
        return True

    def _no_worse(self, packing: Packing) -> bool:
        if self.goal is Goal.COST and packing.lacking():
            return False
        return self._value(packing) >= self._value(self.best)

    def _value(self, packing: Packing) -> tuple[float, ...]:
        if self.goal is Goal.COST:
            return (-packing.cost_units(),)
        lost = len(packing.lacking())
        return (-packing.short_replicas(), packing.goodput(), -lost)

    def _told(self, packing: Packing) -> float:
        return packing.cost() if self.goal is Goal.COST else packing.goodput()


def _sizes(packing: Packing) -> int:
    most = min(MOST_FREE, len(packing.used()))
    return max(1, most - LEAST_FREE + 1)


def _on(packing: Packing, devices: list[int]) -> set[int]:
    """Models with a replica on some of the devices."""
    items = packing.instance.items
    return {items[i].model for index in devices for i in packing.loads[index].items}


def _thinned(
    instance: Instance, devices: list[int], models: set[int], rng: random.Random
) -> dict[tuple[int, int], list[int]]:
    """Some ways to run the devices and some sizes of each model there: others have their turn."""
    found: dict[tuple[int, int], list[int]] = {}
    for number in sorted({instance.group_of[index] for index in devices}):
        group = instance.groups[number]
        for k, fit in enumerate(group.fits):
            if rng.random() > WAYS_SHARE:
                continue
            sizes: dict[int, list[int]] = {}
            for item in fit:
                sizes.setdefault(instance.items[item].model, []).append(item)
            found[number, k] = [
                item
                for model, mine in sizes.items()
                if model in models
                for item in rng.sample(mine, min(SIZES, len(mine)))
            ]
    return found


def _freed(packing: Packing, rng: random.Random, size: int) -> set[int]:
    """Devices in use, chosen in one of several ways, and an empty one of every kind and place."""
    used = packing.used()
    chosen = set(rng.choice((_tied, _emptiest, _random))(packing, used, rng)[:size])
    return chosen | set(_empty_ones(packing, rng))


def _tied(packing: Packing, used: list[int], rng: random.Random) -> list[int]:
    """Those of one model whose rules go beyond a device, and of who is near to it; then others."""
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
    """The dearest of those that hold least first, with a random one between them."""

    def filled(index: int) -> float:
        group, load = packing.group(index), packing.loads[index]
        share = max(load.memory / max(1, group.memory_bytes), load.sm / 100)
        return share / max(1, group.price) * rng.uniform(0.7, 1.4)

    ordered = sorted(used, key=filled)
    half = rng.sample(ordered, len(ordered))
    return list(dict.fromkeys(x for pair in zip(ordered, half, strict=True) for x in pair))


def _random(_packing: Packing, used: list[int], rng: random.Random) -> list[int]:
    return rng.sample(used, len(used))


def _empty_ones(packing: Packing, rng: random.Random) -> Iterator[int]:
    """One of each set of devices that are alike, at most as many as are worth a look."""
    instance: Instance = packing.instance
    kinds: dict[tuple[int, int], int] = {}
    for index, load in enumerate(packing.loads):
        if not load.items:
            host = instance.ties.host_of[index] if instance.ties.by_host else 0
            kinds.setdefault((load.group, host), index)
    found = list(kinds.values())
    yield from rng.sample(found, min(len(found), EMPTY_ONES))
