"""Packs the models whose rules go beyond one device: survival of a loss, company on a host."""

from collections.abc import Iterable, Iterator
from typing import Final

from partitiond.planner.packing import Packing
from partitiond.planner.rules import Missing, helps, missing, on_host
from partitiond.planner.types import PRICE_SCALE, Instance, Need

PASSES: Final = 3
"""A replica that slows its neighbours down may leave one of them short: it gets its turn again."""

Spot = tuple[int, int, int]
"""Device, item, option."""


def place_ruled(packing: Packing) -> bool:
    """Place the models whose rules go beyond one device, until nothing is missing to them.

    A plain best fit: of the devices that help, the item and device that take least of a device's
    price for what they give; opening a device counts it whole. Devices in use may be run at a
    higher level for it. Companions come along: where a replica needs another model on its host,
    that one is placed with it. What ordinary packers place later keeps the rules.

    Returns:
        Whether nothing is missing to these models; where it is False, what fits is placed.
    """
    ties = packing.instance.ties
    mine = [n for n in packing.instance.needs if n.model in ties.beyond_device]
    # Those with a companion first: it may have to come along.
    mine.sort(key=lambda n: (n.model not in ties.near, -n.survive_rate, n.model))
    for _ in range(PASSES):
        short = [need for need in mine if missing(packing, need) is not None]
        if not short:
            return True
        placed = [_place_all(packing, need) for need in short]
        if not any(placed):
            return False
    return all(missing(packing, need) is None for need in mine)


def _place_all(packing: Packing, need: Need) -> bool:
    """Replicas of one model until nothing is missing or none fits; whether anything changed."""
    changed = False
    while (lack := missing(packing, need)) is not None:
        if not place_next(packing, need) and not _refill(packing, need, lack):
            break
        changed = True
    return changed


def _refill(packing: Packing, need: Need, lack: Missing) -> bool:
    """Replace the model's replicas on one device by so many of one kind that give most there.

    False where that gives no more on any device that helps. Every call raises the model's rate on
    a device to the best of finitely many, so they come to an end.
    """
    instance = packing.instance
    best: tuple[int, int, list[int], int] | None = None
    for index, load in enumerate(packing.loads):
        mine = [i for i in load.items if instance.items[i].model == need.model]
        if not mine or not helps(packing, need, lack, index):
            continue
        now = sum(instance.rate(i, packing.option(index)) for i in mine)
        others = [i for i in load.items if instance.items[i].model != need.model]
        for rate, items, option in _fillings(packing, index, need, others, len(mine)):
            if rate > now and (best is None or rate - now > best[0]):
                best = (rate - now, index, items, option)
    if best is None:
        return False
    _, index, items, option = best
    for item in [*packing.loads[index].items]:
        packing.remove(index, item)
    for item in items:
        packing.add(index, item, option)
    return True


def _fillings(
    packing: Packing, index: int, need: Need, others: list[int], held: int
) -> Iterator[tuple[int, list[int], int]]:
    """Copies of each item of a model beside the others on a device: rate, items, option."""
    instance, group = packing.instance, packing.group(index)
    ways = instance.ties.ways.get((group.index, need.model), ())
    room = need.max_replicas - packing.counts[need.model] + held
    for item in dict.fromkeys(item for _, item in ways):
        items = [*others]
        for count in range(1, room + 1):
            items = [*items, item]
            option = packing.best_option(index, items)
            if option is None or not _pools_hold(packing, index, items):
                break
            yield count * instance.rate(item, group.options[option]), items, option


def _pools_hold(packing: Packing, index: int, items: list[int]) -> bool:
    """Whether what the host's devices share is enough for these items in place of what is here."""
    instance = packing.instance
    for number in packing.group(index).pools:
        pool = instance.pools[number]
        freed = sum(instance.pool_use(pool, i) for i in packing.loads[index].items)
        taken = sum(instance.pool_use(pool, i) for i in items)
        if packing.pool_used[number] - freed + taken > pool.capacity:
            return False
    return True


def place_next(packing: Packing, need: Need) -> bool:
    """One more replica of a model, with whoever must be near to it; False where none fits."""
    if packing.counts[need.model] >= need.max_replicas:
        return False
    lack = missing(packing, need) or Missing(0, need.rate)
    every = range(len(packing.loads))
    for slower in (False, True):
        found = sorted(_spots(packing, need, lack, every, slower=slower))
        if any(_add_with_company(packing, spot) for _, spot in found):
            return True
    return False


def _spots(
    packing: Packing, need: Need, lack: Missing, devices: Iterable[int], *, slower: bool
) -> Iterator[tuple[tuple[bool, float], Spot]]:
    """Where one more replica could be, and how bad that is; company aside.

    `slower`: only where it slows down what is there, instead of only where it does not.
    """
    instance = packing.instance
    opened: set[tuple[int, int, int]] = set()
    for index in devices:
        load = packing.loads[index]
        useful = helps(packing, need, lack, index)
        if not useful and (lack.hosts or lack.only_survival):
            continue
        if load.option is None:
            # Of empty devices that are alike one is enough.
            kind = (load.group, *_kind(instance, need, index))
            if kind in opened:
                continue
            opened.add(kind)
        group, price = packing.group(index), packing.group(index).price / PRICE_SCALE
        wanted = max(lack.rate, lack.rate_if_lost) or need.rate or 1
        for item, option in _ways(packing, index, need.model, slower=slower):
            it = instance.items[item]
            gain = min(_gain(packing, index, item, option), wanted) / wanted
            if gain <= 0:
                continue
            share = max(it.memory_bytes / max(1, group.memory_bytes), it.sm / 100)
            takes = share * price + (price if load.option is None else 0.0)
            yield (not useful, takes / max(gain, 1e-9)), (index, item, option)


def _gain(packing: Packing, index: int, item: int, option: int) -> int:
    """What a replica adds to its model's rate, less what it takes from those there before."""
    instance, load, how = packing.instance, packing.loads[index], packing.group(index).options
    gain = instance.rate(item, how[option])
    if load.option is not None and load.option != option:
        same = [i for i in load.items if instance.items[i].model == instance.items[item].model]
        gain -= sum(instance.rate(i, how[load.option]) for i in same)
        gain += sum(instance.rate(i, how[option]) for i in same)
    return gain


def _ways(packing: Packing, index: int, model: int, *, slower: bool) -> Iterator[tuple[int, int]]:
    """Items of a model that the device holds, each with the option that it is run as then."""
    load = packing.loads[index]
    known = packing.instance.ties.ways.get((load.group, model), ())
    if not slower:
        for option, item in known:
            if packing.fits(index, item, option, company=False):
                yield item, option
    elif load.option is not None:
        for item in dict.fromkeys(item for _, item in known):
            raised = packing.best_option(index, [*load.items, item])
            if raised not in (None, load.option) and packing.pools_allow(index, item):
                yield item, raised


def _kind(instance: Instance, need: Need, index: int) -> tuple[int, int]:
    domain = need.domain_of[index] if need.domain_of else 0
    return (instance.ties.host_of[index], domain)


def _add(packing: Packing, spot: Spot) -> int | None:
    """Add a replica; the option the device was run as before, where that is another one."""
    index, item, option = spot
    before = packing.loads[index].option
    changed = before is not None and before != option
    if changed:
        packing.rerun(index, option)
    packing.add(index, item, option)
    return before if changed else None


def _take_back(packing: Packing, spot: Spot, before: int | None) -> None:
    packing.remove(spot[0], spot[1])
    if before is not None:
        packing.rerun(spot[0], before)


def _add_with_company(packing: Packing, spot: Spot) -> bool:
    """Add a replica and whoever has to be on its host with it; nothing where that does not fit."""
    added = [(spot, _add(packing, spot))]
    host = packing.instance.ties.host_of[spot[0]]
    waiting = _absent(packing, host, packing.instance.items[spot[1]].model)
    while waiting:
        model = min(waiting)
        waiting.discard(model)
        found = _best_on_host(packing, host, model)
        if found is None:
            for old, before in reversed(added):
                _take_back(packing, old, before)
            return False
        added.append((found, _add(packing, found)))
        waiting |= _absent(packing, host, model)
    return True


def _absent(packing: Packing, host: int, model: int) -> set[int]:
    return set(packing.instance.ties.near.get(model, frozenset()) - on_host(packing, host))


def _best_on_host(packing: Packing, host: int, model: int) -> Spot | None:
    """Where the first replica of a model takes least for what it gives on a host."""
    instance = packing.instance
    need = next((n for n in instance.needs if n.model == model), None)
    if need is None or packing.counts[model] >= need.max_replicas:
        return None
    lack = Missing(0, max(0, need.rate - packing.rates[model]))
    for slower in (False, True):
        devices = instance.ties.devices_on[host]
        found = min(_spots(packing, need, lack, devices, slower=slower), default=None)
        if found is not None:
            return found[1]
    return None
