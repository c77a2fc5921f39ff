"""Greedy packings: guided by the bound's prices, and the two stated baselines.

The guided greedy takes models in order of what covering them is worth, and gives each the
replicas that serve most per worth, on the fullest device where one fits. Then it tries to empty
devices, the least filled first. Several orders and several degrees of reluctance to open a device
are tried; how many follows from the instance's size and the time limit, never from the clock.
"""

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.plan import Objective
from partitiond.planner.bound import Bound, Entry
from partitiond.planner.instance import PRICE_SCALE, Instance, Need
from partitiond.planner.packing import Packing
from partitiond.planner.ruled import place_next, place_ruled
from partitiond.planner.rules import may_leave

RELUCTANCE: Final = (0.0, 0.5, 1e6)
"""How much of a device's price opening it adds to the worth of a replica, one start each."""
MAX_STARTS: Final = 60
SECONDS_PER_STEP: Final = 1e-5
"""Time of one start per entry and device in use, measured on a slow core; it turns the time limit
into a number of starts, so that plans do not depend on how fast the machine is."""
TIME_SHARE: Final = 0.4
EMPTYING_ROUNDS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Strategy:
    """One start of the greedy: reluctance to open devices, and how much the order is shaken."""

    reluctance: float
    noise: float


def strategies(bound: Bound, time_limit_seconds: float) -> list[Strategy]:
    """The starts that the time limit affords at the instance's size, at least one."""
    affordable = int(TIME_SHARE * time_limit_seconds / start_seconds(bound))
    count = max(1, min(MAX_STARTS, affordable))
    return [
        Strategy(RELUCTANCE[n % len(RELUCTANCE)], 0.0 if n < len(RELUCTANCE) else 0.3)
        for n in range(count)
    ]


def start_seconds(bound: Bound) -> float:
    """About how long one start takes, by the instance's size."""
    entries = sum(len(mine) for mine in bound.entries.values())
    return SECONDS_PER_STEP * max(1, entries) * max(1.0, sum(bound.used.values()))


class Guide:
    """The bound's prices as the greedy uses them: a worth above 0 for every entry."""

    def __init__(self, instance: Instance, bound: Bound) -> None:
        self.instance = instance
        self.price = {g.index: max(1e-6, g.price / PRICE_SCALE) for g in instance.groups}
        self.worth: dict[tuple[int, int, int], float] = {}
        self.entries: Mapping[int, Sequence[Entry]] = bound.entries
        for entry in (e for mine in bound.entries.values() for e in mine):
            # A resource that is plentiful in the relaxation has price 0 and is scarce on single
            # devices all the same: a tenth of a device's price is spread over what is used.
            floor = 0.1 * self.price[entry.group] * max(entry.use)
            self.worth[entry.item, entry.group, entry.option] = bound.worth(entry) + floor

    def of(self, entry: Entry) -> float:
        """What the entry takes, in devices' cost."""
        return self.worth[entry.item, entry.group, entry.option]

    def by_merit(self, need: Need, remaining: int) -> list[tuple[float, Entry]]:
        """Entries by worth per served share of what remains, best first."""
        scored = []
        for entry in self.entries[need.model]:
            gain = min(entry.rate, remaining) / remaining if remaining > 0 else 1.0
            if gain > 0:
                scored.append((self.of(entry) / gain, entry))
        scored.sort(key=lambda pair: (pair[0], pair[1].item, pair[1].group, pair[1].option))
        return scored


def place_one(
    packing: Packing, guide: Guide, need: Need, *, reluctance: float, may_open: bool = True
) -> bool:
    """Place one more replica of a model; False where none fits."""
    remaining = max(0, need.rate - packing.rates[need.model])
    if packing.counts[need.model] >= need.max_replicas:
        return False
    open_by, closed = _devices_by_place(packing)
    best: tuple[float, int, Entry] | None = None
    for merit, entry in guide.by_merit(need, remaining):
        if best is not None and best[0] <= merit:
            break
        index = _best_fit(packing, open_by.get((entry.group, entry.option), ()), entry)
        if index is not None:
            best = (merit, index, entry)
            break
        fresh = closed.get(entry.group)
        if may_open and fresh is not None and packing.fits(fresh, entry.item, entry.option):
            extra = reluctance * guide.price[entry.group] * merit / guide.of(entry)
            if best is None or merit + extra < best[0]:
                best = (merit + extra, fresh, entry)
    if best is None:
        return False
    packing.add(best[1], best[2].item, best[2].option)
    return True


def _devices_by_place(packing: Packing) -> tuple[dict[tuple[int, int], list[int]], dict[int, int]]:
    """Open devices by (group, option), and the first empty one of each group."""
    open_by: dict[tuple[int, int], list[int]] = {}
    closed: dict[int, int] = {}
    for index, load in enumerate(packing.loads):
        if load.option is None:
            closed.setdefault(load.group, index)
        else:
            open_by.setdefault((load.group, load.option), []).append(index)
    return open_by, closed


def _best_fit(packing: Packing, open_devices: Iterable[int], entry: Entry) -> int | None:
    """The fullest open device that still holds the entry."""
    best, best_left = None, 0.0
    for index in open_devices:
        load = packing.loads[index]
        if packing.fits(index, entry.item, entry.option):
            group = packing.instance.groups[entry.group]
            left = (group.memory_bytes - load.memory) / max(1, group.memory_bytes)
            left += (100 - load.sm) / 100
            if best is None or left < best_left:
                best, best_left = index, left
    return best


def cover(
    packing: Packing, guide: Guide, needs: Iterable[Need], reluctance: float, *, may_open: bool
) -> bool:
    """Place replicas until every model is covered; False as soon as one cannot be."""
    for need in needs:
        while packing.counts[need.model] < need.min_replicas or (
            packing.rates[need.model] < need.rate
        ):
            if not place_one(packing, guide, need, reluctance=reluctance, may_open=may_open):
                return False
    return True


def serve_all(
    instance: Instance, guide: Guide, start: Packing, strategy: Strategy, rng: random.Random
) -> Packing | None:
    """A packing that covers everything, grown from `start`; None where this start fails."""
    packing = start.copy()
    place_ruled(packing)
    order = in_order(instance, guide, strategy.noise, rng)
    if not cover(packing, guide, order, strategy.reluctance, may_open=True):
        return None
    drop_surplus(packing)
    for _ in range(EMPTYING_ROUNDS):
        if not empty_devices(packing, guide, order):
            break
    return packing


def in_order(instance: Instance, guide: Guide, noise: float, rng: random.Random) -> list[Need]:
    """Models by the largest worth of their cheapest replica, then by all they need."""

    def size(need: Need) -> float:
        merits = guide.by_merit(need, need.rate)
        whole = merits[0][0] * max(1, need.min_replicas) if merits else 0.0
        largest = max((guide.of(e) for _, e in merits[:1]), default=0.0)
        return (largest + 0.1 * whole) * (1 + noise * rng.uniform(-1, 1))

    keyed = [(-size(need), need.model, need) for need in instance.needs]
    return [need for _, _, need in sorted(keyed, key=lambda k: (k[0], k[1]))]


def drop_surplus(packing: Packing, *, rated_only: bool = False) -> None:
    """Take away replicas that no demand and no least number needs, the largest first."""
    instance = packing.instance
    needs = {need.model: need for need in instance.needs}
    placed = [(index, item) for index, load in enumerate(packing.loads) for item in load.items]
    placed.sort(key=lambda p: (-instance.items[p[1]].memory_bytes, p))
    for index, item in placed:
        need = needs[instance.items[item].model]
        rate = instance.rate(item, packing.option(index))
        if rated_only and not need.rated:
            continue
        if (
            packing.counts[need.model] - 1 >= need.min_replicas
            and packing.rates[need.model] - rate >= need.rate
            and may_leave(packing, index, item)
        ):
            packing.remove(index, item)


def empty_devices(packing: Packing, guide: Guide, order: list[Need]) -> bool:
    """Try to serve what is on each device from the other open ones; True if one was emptied."""
    instance, emptied = packing.instance, False
    by_fill = sorted(packing.used(), key=lambda i: (-packing.group(i).price, _fill(packing, i), i))
    for index in by_fill:
        if not packing.loads[index].items:
            continue
        trial = packing.copy()
        touched = {instance.items[item].model for item in trial.loads[index].items}
        for item in [*trial.loads[index].items]:
            trial.remove(index, item)
        needs = [need for need in order if need.model in touched]
        # A group and an option that no entry has keep the device from being chosen again.
        saved = trial.loads[index].group
        trial.loads[index].group = trial.loads[index].option = -1
        done = cover(trial, guide, needs, 0.0, may_open=False)
        done = done and not (instance.ties.beyond_device and trial.lacking())
        trial.loads[index].group, trial.loads[index].option = saved, None
        if done:
            packing.loads, packing.pool_used = trial.loads, trial.pool_used
            packing.rates, packing.counts = trial.rates, trial.counts
            drop_surplus(packing)
            emptied = True
    return emptied


def _fill(packing: Packing, index: int) -> float:
    load, group = packing.loads[index], packing.group(index)
    return load.memory / max(1, group.memory_bytes) + load.sm / 100


def most_goodput(
    instance: Instance, guide: Guide, start: Packing, strategy: Strategy, rng: random.Random
) -> Packing:
    """Least numbers of replicas first, then what adds most weighted requests/s per worth."""
    packing = start.copy()
    for need in in_order(instance, guide, strategy.noise, rng):
        while packing.counts[need.model] < need.min_replicas:
            if not _place_in_company(packing, guide, need):
                break
    rated = any(need.rated for need in instance.needs)
    open_needs = {need.model: need for need in instance.needs if need.rated == rated}
    merits = {m: _merit(packing, guide, need) for m, need in open_needs.items()}
    while merits:
        model = max(merits, key=lambda m: (merits[m], -m))
        need = open_needs[model]
        if merits[model] <= 0 or not _place_in_company(packing, guide, need):
            del merits[model]
            continue
        merits[model] = _merit(packing, guide, need)
    place_ruled(packing)
    return packing


def _place_in_company(packing: Packing, guide: Guide, need: Need) -> bool:
    """One more replica; where it may not be without another model, that comes along."""
    if place_one(packing, guide, need, reluctance=0.0):
        return True
    return need.model in packing.instance.ties.near and place_next(packing, need)


def _merit(packing: Packing, guide: Guide, need: Need) -> float:
    """Weighted requests/s per worth of the best next replica; 0 when the demand is covered."""
    remaining = need.rate - packing.rates[need.model] if need.rated else 1 << 60
    if remaining <= 0:
        return 0.0
    return max(
        need.worth * min(entry.rate, remaining) / guide.of(entry)
        for entry in guide.entries[need.model]
    )


def first_fit(instance: Instance, entries: dict[int, tuple[Entry, ...]], *, best: bool) -> Packing:
    """First-fit (or best-fit) decreasing, the stated baseline, under its best fixed option.

    Each model takes the candidate that serves most per its largest share of a device, as many
    replicas as that needs. Replicas are packed largest share first; for the most goodput those
    first that give most of it per share. Devices are all run the same way (one sharing mode, one
    level); the way that leaves the least unserved, then costs the least, is kept.
    """
    ways = {
        (option.mode, option.level) for g in instance.groups for option in g.options if option.mode
    }
    found = [
        _first_fit_at(instance, entries, way, best=best)
        for way in sorted(ways, key=lambda w: (str(w[0]), w[1]))
    ] or [Packing(instance)]
    return min(found, key=lambda p: (len(p.lacking()), -p.goodput(), p.cost()))


def _first_fit_at(
    instance: Instance,
    entries: dict[int, tuple[Entry, ...]],
    way: tuple[object, float],
    *,
    best: bool,
) -> Packing:
    packing = Packing(instance)
    queue: list[tuple[float, int, list[Entry]]] = []
    for need in instance.needs:
        mine = [e for e in entries[need.model] if _runs_as(instance, e, way)]
        per_share = [(e.rate / max(e.use), -e.item, e) for e in mine if e.rate > 0]
        if not per_share:
            continue
        item = max(per_share, key=lambda p: (p[0], p[1]))[2].item
        chosen = [e for e in mine if e.item == item]
        count = max(need.min_replicas, -(-need.rate // chosen[0].rate))
        count = min(count, need.max_replicas, 100_000)
        share = max(chosen[0].use)
        by_value = instance.request.objective is Objective.MAX_GOODPUT
        key = need.worth * chosen[0].rate / share if by_value else share
        queue.extend((key, need.model, chosen) for _ in range(count))
    queue.sort(key=lambda q: (-q[0], q[1]))
    for _, _, chosen in queue:
        _drop_in(packing, chosen, best=best)
    return packing


def _runs_as(instance: Instance, entry: Entry, way: tuple[object, float]) -> bool:
    option = instance.groups[entry.group].options[entry.option]
    return option.mode is None or (option.mode, option.level) == way


def _drop_in(packing: Packing, chosen: list[Entry], *, best: bool) -> None:
    if best:
        open_by, _ = _devices_by_place(packing)
        for entry in chosen:
            index = _best_fit(packing, open_by.get((entry.group, entry.option), ()), entry)
            if index is not None:
                packing.add(index, entry.item, entry.option)
                return
    for index, load in enumerate(packing.loads):
        for entry in chosen:
            if entry.group == load.group and packing.fits(index, entry.item, entry.option):
                packing.add(index, entry.item, entry.option)
                return
