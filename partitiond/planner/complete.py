"""What runs, completed without compiled code, where a fleet is too large to list all places.

Only for the first minute on a new machine: when a device is lost while the search is still being
compiled, what it held is placed beside the rest and nobody waits. It looks at one replica after
the other, so it is no way to plan a whole fleet.
"""

import collections
from collections.abc import Iterator

from partitiond.planner.members import KEPT, Member, member
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Stop, Watch, never
from partitiond.planner.ruled import place_ruled
from partitiond.planner.rules import lonely
from partitiond.planner.running import running_packing, staying_items
from partitiond.planner.sites import Ints, Sites, build_sites, usual_prices
from partitiond.planner.types import Need


def complete(sites: Sites, start: Packing, stop: Stop = never) -> Packing:
    """`start` with replicas added until nothing is wanted, or what is wanted fits nowhere.

    Args:
        sites: the instance as arrays.
        start: it is left as it is.
        stop: asked after each replica whether to end with what is there.
    """
    packing, price = start.copy(), usual_prices(sites)
    place_ruled(packing)
    most = sites.rates.max(axis=1, initial=0)
    for position, need in enumerate(sites.instance.needs):
        mine = (sites.entry_model == position).nonzero()[0]
        while _wanted(packing, need) and not stop():
            left = need.rate - packing.rates[need.model]
            gain = [min(1.0, float(most[e]) / left) if left > 0 else 1.0 for e in mine]
            merit = {int(e): float(price[e]) / g for e, g in zip(mine, gain, strict=True) if g > 0}
            ranked = sorted(merit, key=lambda e: (merit[e], e))
            if not any(_placed(packing, sites, e) for e in ranked):
                break
    return packing


def _wanted(packing: Packing, need: Need) -> bool:
    there = packing.counts[need.model]
    lacks = packing.rates[need.model] < need.rate or there < need.min_replicas
    return lacks and there < need.max_replicas


def _placed(packing: Packing, sites: Sites, entry: int) -> bool:
    """One more of an entry, on the fullest device that holds it; False where none does."""
    item, model = int(sites.entry_item[entry]), int(sites.entry_model[entry])
    alone = sites.instance.needs[model].model
    devices = [*_devices(packing, sites, entry)]
    for index in sorted(devices, key=lambda i: (-packing.loads[i].memory, i)):
        load = packing.loads[index]
        if not packing.pools_allow(index, item) or lonely(packing, index, alone):
            continue
        option = packing.best_option(index, [*load.items, item])
        if option is None or not _keeps(packing, index, option):
            continue
        if load.items and option != load.option:
            packing.rerun(index, option)
        packing.add(index, item, option)
        return True
    return False


def _devices(packing: Packing, sites: Sites, entry: int) -> Iterator[int]:
    """Devices of the entry's class that run as it does, and an empty one of each group."""
    site, fresh = int(sites.entry_site[entry]), set[int]()
    there: Ints = (sites.device_class == sites.site_class[site]).nonzero()[0]
    for index in there.tolist():
        load = packing.loads[index]
        if load.option is None and load.group not in fresh:
            fresh.add(load.group)
            yield index
        elif load.option is not None and sites.site_of[load.group, load.option] == site:
            yield index


def _keeps(packing: Packing, index: int, option: int) -> bool:
    """Whether models on the device still get what they got, or want, when it is run so."""
    load, instance = packing.loads[index], packing.instance
    if not load.items or option == load.option:
        return True
    how, lost = instance.groups[load.group].options[option], collections.Counter[int]()
    for item in load.items:
        less = instance.rate(item, packing.option(index)) - instance.rate(item, how)
        lost[instance.items[item].model] += less
    wanted = {need.model: need.rate for need in instance.needs if need.rated}
    return all(less <= 0 or packing.rates[m] - less >= wanted.get(m, 0) for m, less in lost.items())


def completed(watch: Watch, *, by_cost: bool) -> Member:
    """What runs, with what is missing placed beside it, and nothing moved."""
    start = running_packing(watch.instance, staying_items(watch.instance))
    start.settle()
    made = complete(build_sites(watch.instance), start, lambda: watch.stopped)
    one = member(KEPT, made)
    tell_of(watch, one, by_cost=by_cost)
    return one


def tell_of(watch: Watch, one: Member, *, by_cost: bool) -> None:
    """Tell of a plan that is an answer."""
    packing = one.packing
    if not (packing.lacking() if by_cost else packing.short_replicas()):
        watch.found(packing.cost() if by_cost else packing.goodput(), one.name)
