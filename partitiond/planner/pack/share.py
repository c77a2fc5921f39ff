"""Shares out spare capacity to models without a rate, by weight."""

import collections
from collections.abc import Iterable

import numpy as np

from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.exact.objectives import reference_rates
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Need
from partitiond.planner.pack.adding import put, spot_on, take_back
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.stop import Stop, never


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
    ranked, by_class = _ranked(packing, needs), collections.defaultdict[int, list[int]](list)
    for index in devices:
        by_class[int(build_sites(instance).device_class[index])].append(index)
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
    """Add an item, at a higher level if necessary, if no demand suffers and its model gains."""
    spot = spot_on(packing, index, item)
    if spot is None:
        return False
    model = packing.instance.items[item].model
    before, lacking = packing.rates[model], len(packing.lacking())
    was = put(packing, spot)
    if packing.rates[model] > before and len(packing.lacking()) <= lacking:
        return True
    take_back(packing, spot, was)
    return False
