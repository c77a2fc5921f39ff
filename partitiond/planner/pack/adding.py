"""Adds replicas to a packing, each where it takes least for what it gives, keeping every rule.

A replica goes to a device in use that runs its way, the fullest first. Otherwise it goes to a
device that can hold it at a higher level of interference, if no model there then gets less than it
got or wants; otherwise to an empty device. If a replica needs another model on its host, that model
is placed with it.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.rates import reference_rates
from partitiond.planner.model.sites import Floats, Sites, build_sites
from partitiond.planner.model.types import Need
from partitiond.planner.pack.packing import Missing, Packing, helps, lacks_near, missing, on_host
from partitiond.planner.stop import Stop, never

Spot = tuple[int, int, int]
"""Device, item, and the option as which the device is then run."""
ANY_RATE: Final = 1 << 60
"""The rate that a model without a rate wants."""


class Adding:
    """Adds replicas to a packing. `packing` and `worth` may be replaced, for the same instance.

    Args:
        packing: the packing to change.
        worth: (E,) what one replica of each entry takes, in devices' cost.
        opens_last: open an empty device only if no device in use has room.
        stop: called periodically; True ends the look for a place, as if none were left.
    """

    def __init__(
        self,
        packing: Packing,
        worth: Floats,
        *,
        opens_last: bool = False,
        stop: Stop = never,
    ) -> None:
        self.packing, self.instance = packing, packing.instance
        self.sites: Sites = build_sites(self.instance)
        self.worth = worth
        sites = self.sites
        # An empty device is opened at the middle level, or at the highest that the entry tolerates.
        bears = np.minimum(sites.level.shape[1] // 2, sites.entry_top)
        self._rate = sites.rates[np.arange(len(bears)), bears]
        """(E,) rate of an entry on a device that was opened for it."""
        self._bears = bears
        order = np.argsort(sites.entry_model, kind="stable")
        cuts = np.searchsorted(sites.entry_model[order], np.arange(1, len(self.instance.needs)))
        split = np.split(order, cuts) if self.instance.needs else []
        self._mine = {n.model: e for n, e in zip(self.instance.needs, split, strict=True)}
        self._need = {n.model: n for n in self.instance.needs}
        self._raised: dict[tuple[int, tuple[int, ...]], int | None] = {}
        self._held: dict[tuple[int, int], frozenset[int]] = {}
        self.opens_last, self._stop = opens_last, stop
        self.devices = range(len(packing.loads))

    def add_one(self, need: Need) -> bool:
        """Add one more replica of a model, with the models it must be near; False if none fits."""
        lack = missing(self.packing, need) or Missing(0, need.rate)
        return any(self._add_with_company(spot) for spot in self._spots(need, lack, self.devices))

    def merit(self, need: Need) -> float:
        """Return weighted requests/s per worth of the best next replica; 0 if all is covered."""
        left = need.rate - self.packing.rates[need.model] if need.rated else ANY_RATE
        if left <= 0 or not len(self._mine[need.model]):
            return 0.0
        mine = self._mine[need.model]
        gain = need.worth * np.minimum(self._rate[mine], left)
        return float((gain / np.maximum(self.worth[mine], 1e-12)).max())

    def size(self, need: Need) -> float:
        """Return what a model's cheapest replica takes, plus a tenth of all the model needs."""
        ranked = self._ranked(need, need.rate)
        if not ranked:
            return 0.0
        first = ranked[0]
        gain = min(1.0, self._rate[first] / need.rate) if need.rate else 1.0
        whole = self.worth[first] / gain * max(1, need.min_replicas)
        return float(self.worth[first] + 0.1 * whole)

    def _ranked(self, need: Need, rate: int) -> list[int]:
        """Sort a model's entries by what they take per served share of a rate, the least first."""
        mine = self._mine[need.model]
        gain = np.minimum(self._rate[mine], rate) / rate if rate > 0 else np.ones(len(mine))
        mine, gain = mine[gain > 0], gain[gain > 0]
        order: list[int] = mine[np.lexsort((mine, self.worth[mine] / gain))].tolist()
        return order

    def _spots(self, need: Need, lack: Missing, devices: Iterable[int]) -> Iterator[Spot]:
        """Yield places where one more replica fits, the best first, ignoring nearness."""
        if self.packing.counts[need.model] >= need.max_replicas:
            return
        tied = bool(lack.hosts) or lack.domain is not None
        good = [i for i in devices if not tied or helps(self.packing, need, lack, i)]
        rate = max(lack.rate, lack.rate_if_lost) if need.rated else 0
        ranked = self._ranked(need, rate)
        yield from self._of_all(ranked, good, need)
        if tied and not (lack.hosts or lack.only_survival):
            others = set(good)
            yield from self._of_all(ranked, [i for i in devices if i not in others], need)

    def _of_all(self, ranked: list[int], devices: list[int], need: Need) -> Iterator[Spot]:
        used, empty = self._by_site(devices, need)
        for entry in ranked:
            if self._stop():
                return
            item, site = int(self.sites.entry_item[entry]), int(self.sites.entry_site[entry])
            full = list[int]()
            for index in used[site]:
                option = self.packing.loads[index].option
                assert option is not None
                if self._fits(index, item, option):
                    yield index, item, option
                else:
                    full.append(index)
            yield from self._at_higher_levels(item, full)
            if not self.opens_last:
                yield from self._opened(entry, empty)
        for entry in ranked if self.opens_last else ():
            yield from self._opened(entry, empty)

    def _by_site(
        self, devices: Iterable[int], need: Need
    ) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Return devices in use by site, fullest first, and one of each kind of empty by class."""
        used, empty = collections.defaultdict[int, list[int]](list), dict[tuple[int, ...], int]()
        loads, sites = self.packing.loads, self.sites
        for index in devices:
            load = loads[index]
            if load.option is not None:
                mine = [sites.site_of[load.group, load.option]]
                if len(load.items) == 1:  # it may share its device in any way
                    mine = np.flatnonzero(sites.site_class == sites.device_class[index]).tolist()
                for site in mine:
                    used[site].append(index)
                continue
            host = self.instance.ties.host_of[index] if self.instance.ties.by_host else 0
            domain = need.domain_of[index] if need.domain_of else 0
            empty.setdefault((load.group, host, domain), index)
        for here in used.values():
            here.sort(key=lambda i: (-loads[i].memory, i))
        return used, by_key((int(sites.device_class[index]), index) for index in empty.values())

    def _at_higher_levels(self, item: int, devices: Iterable[int]) -> Iterator[Spot]:
        """Yield devices that hold the item at a higher level, without making any model short."""
        for index in devices:
            load, group = self.packing.loads[index], self.packing.group(index)
            if load.memory + self.instance.items[item].memory_bytes > group.memory_bytes:
                continue
            if not self.packing.pools_allow(index, item):
                continue
            key = (load.group, (*sorted(load.items), item))
            if key not in self._raised:
                self._raised[key] = self.packing.best_option(index, [*load.items, item])
            option = self._raised[key]
            if option is not None and option != load.option and self._keeps(index, item, option):
                yield index, item, option

    def _opened(self, entry: int, empty: Mapping[int, list[int]]) -> Iterator[Spot]:
        """Yield empty devices, by class, run at the level at which the site is opened."""
        sites = self.sites
        site, item = int(sites.entry_site[entry]), int(sites.entry_item[entry])
        options = sites.option_of[site, self._bears[entry], sites.entry_kappa[entry] :]
        option = int(options[options >= 0][-1])  # the largest kappa: it holds most kinds of others
        for index in empty.get(int(sites.site_class[site]), ()):
            if self._fits(index, item, option):
                yield index, item, option

    def _fits(self, index: int, item: int, option: int) -> bool:
        """Whether a device run as an option can hold one more of an item, ignoring nearness."""
        group = self.packing.group(index)
        key = (group.index, option)
        if key not in self._held:
            self._held[key] = frozenset(group.fits[option])
        return item in self._held[key] and self.packing.fits(index, item, option, company=False)

    def _keeps(self, index: int, item: int, option: int) -> bool:
        """Whether all models on the device get what they got, or want, under another option."""
        load, instance = self.packing.loads[index], self.instance
        how, lost = instance.groups[load.group].options[option], collections.Counter[int]()
        for there in load.items:
            less = instance.rate(there, self.packing.option(index)) - instance.rate(there, how)
            lost[instance.items[there].model] += less
        lost[instance.items[item].model] -= instance.rate(item, how)
        rates = self.packing.rates
        return all(
            less <= 0 or (self._need[m].rated and rates[m] - less >= self._need[m].rate)
            for m, less in lost.items()
        )

    def _add_with_company(self, spot: Spot) -> bool:
        """Add a replica and the models it needs on its host; add nothing if these do not fit."""
        near, packing = self.instance.ties.near, self.packing
        added = [(spot, put(packing, spot))]
        if not near:
            return True
        host = self.instance.ties.host_of[spot[0]]
        here = self.instance.ties.devices_on[host]

        def absent(model: int) -> set[int]:
            return set(near.get(model, frozenset()) - on_host(packing, host))

        waiting = absent(self.instance.items[spot[1]].model)
        while waiting:
            model = min(waiting)
            waiting.discard(model)
            found, need = None, self._need.get(model)
            if need is not None:
                lack = Missing(0, max(0, need.rate - packing.rates[model]))
                found = next(self._spots(need, lack, sorted(here)), None)
            if found is None:
                for old, before in reversed(added):
                    take_back(packing, old, before)
                return False
            added.append((found, put(packing, found)))
            waiting |= absent(model)
        return True


def spot_on(packing: Packing, index: int, item: int, *, company: bool = True) -> Spot | None:
    """Return a place for one more replica on a device, at the lowest level that holds all; None if
    no level does, or a rule forbids it. `company=False` ignores the models it has to be near."""
    option = packing.best_option(index, [*packing.loads[index].items, item])
    if option is None or not packing.pools_allow(index, item):
        return None
    if company and lacks_near(packing, index, packing.instance.items[item].model):
        return None
    return index, item, option


def put(packing: Packing, spot: Spot) -> int | None:
    """Add a replica; return the option its device was run as before, None if it was empty."""
    index, item, option = spot
    before = packing.loads[index].option
    if before is not None and before != option:
        packing.rerun(index, option)
    packing.add(index, item, option)
    return before


def take_back(packing: Packing, spot: Spot, before: int | None) -> None:
    """Undo `put`."""
    packing.remove(spot[0], spot[1])
    if before is not None and before != spot[2]:
        packing.rerun(spot[0], before)


def share_value(packing: Packing) -> float:
    """Return the quality of the shares: the smallest weighted one counts most, then their sum."""
    unrated = [need for need in packing.instance.needs if not need.rated]
    if not unrated:
        return 0.0
    units = reference_rates(packing.instance)
    # A share is the planned rate over what one device gives the model alone.
    shares = [packing.rates[need.model] / units[need.model] for need in unrated]
    lowest = min(share / need.weight for share, need in zip(shares, unrated, strict=True))
    return len(shares) * lowest + sum(shares) / 100


def fill(packing: Packing, devices: Iterable[int], stop: Stop = never) -> None:
    """Add replicas of models without a rate until none fits.

    The model with the smallest weighted share goes first. No replica is added that would push a
    covered demand, or an SLO, below what was asked.

    Args:
        packing: the packing to change.
        devices: devices that may be filled.
        stop: True ends with what was added so far.
    """
    instance, needs = packing.instance, [n for n in packing.instance.needs if not n.rated]
    units = reference_rates(instance) if needs else {}
    ranked, class_of = _ranked(packing, needs), build_sites(instance).device_class
    by_class = by_key((int(class_of[index]), index) for index in devices)
    failed = set[tuple[int, int, int]]()

    def added(index: int, item: int) -> bool:
        # Replicas are only added, so an item that did not fit never fits later. An item that took
        # from a model's demand is not retried either, though that model may have spare rate later.
        tried = (index, len(packing.loads[index].items), item)
        if tried in failed or stop():
            return False
        done = add_if_harmless(packing, index, item)
        # A model that has to be near another one may find that one there later.
        if not (done or instance.ties.near):
            failed.add(tried)
        return done

    while needs and not stop():
        need = min(
            needs, key=lambda n: (packing.rates[n.model] / units[n.model] / n.weight, n.model)
        )
        spots = ((d, item) for cls, item in ranked[need.model] for d in by_class[cls])
        full = packing.counts[need.model] >= need.max_replicas
        if full or not any(added(index, item) for index, item in spots):
            needs.remove(need)


def _ranked(packing: Packing, needs: Iterable[Need]) -> dict[int, list[tuple[int, int]]]:
    """Return for each model the device class and item of its entries, most rate per worth first."""
    sites = build_sites(packing.instance)
    merit = -sites.rates.max(axis=1, initial=0) / np.maximum(usual_prices(sites), 1e-12)
    found = {}
    for need in needs:
        mine = np.flatnonzero(sites.entry_model == packing.instance.needs.index(need))
        ranked = mine[np.lexsort((sites.entry_item[mine], merit[mine]))]
        classes = sites.site_class[sites.entry_site[ranked]].tolist()
        pairs = zip(classes, sites.entry_item[ranked].tolist(), strict=True)
        found[need.model] = [*dict.fromkeys(pairs)]
    return found


def add_if_harmless(packing: Packing, index: int, item: int) -> bool:
    """Add an item, at a higher level if necessary, if no demand suffers and its model gains.

    A demand that is served in part suffers, too, if it is served less.
    """
    spot = spot_on(packing, index, item)
    if spot is None:
        return False
    items, rates = packing.instance.items, packing.rates
    model, there = items[item].model, {items[i].model for i in packing.loads[index].items}
    asked = [n for n in packing.instance.needs if n.rated and n.model in there]
    served = [min(rates[n.model], n.rate) for n in asked]
    before, lacking = rates[model], len(packing.lacking())
    was = put(packing, spot)
    suffers = any(rates[n.model] < had for n, had in zip(asked, served, strict=True))
    if rates[model] > before and not suffers and len(packing.lacking()) <= lacking:
        return True
    take_back(packing, spot, was)
    return False
