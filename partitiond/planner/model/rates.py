"""Computes what a device gives and holds of one model that has the device to itself."""

import functools

import numpy as np

from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Group, Instance, Item


@functools.lru_cache(maxsize=1)
def reference_rates(instance: Instance) -> dict[int, int]:
    """Return the most that one device can give each model if the model has it to itself."""
    best = {need.model: 1 for need in instance.needs}
    for item, most in zip(instance.items, rates_alone(instance), strict=True):
        best[item.model] = max(best.get(item.model, 1), most)
    return best


@functools.lru_cache(maxsize=1)
def rates_alone(instance: Instance) -> list[int]:
    """Return for each item the most that one device full of it gives, in its model's units."""
    size = len(instance.items)
    best = np.zeros(size, dtype=np.int64)
    sites = build_sites(instance)
    # Groups that differ only in their host hold the same.
    alike = {(id(g.fits), g.memory_bytes, g.cores, g.sm_percent): g for g in instance.groups}
    for group in alike.values():
        copies = np.zeros(size, dtype=np.int64)
        for item in set[int]().union(*group.fits):
            copies[item] = most_copies(instance.items[item], group)
        rate = np.zeros(size, dtype=np.int64)
        for number, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
            site = sites.site_of[group.index, number]
            there = slice(*np.searchsorted(sites.entry_site, [site, site + 1]))
            level = int(np.searchsorted(sites.level[site], option.level))
            rate[sites.entry_item[there]] = sites.rates[there, level]
            mine = np.array(fit, dtype=np.int64)
            full = np.minimum(option.max_items, copies[mine]) * rate[mine]
            best[mine] = np.maximum(best[mine], full)
    return [int(most) for most in best]


def most_copies(it: Item, group: Group) -> int:
    """Return the number of copies of one item that a device of a group can hold at most."""
    in_mig = (o.geometry for o in group.options if o.geometry is not None)
    geometry = next(in_mig, None) if it.mig_profile else None
    position = None if geometry is None else geometry.index(it.mig_profile)
    if geometry is not None and position is not None:
        limits = [geometry.profiles[position].max_instances]
    else:
        limits = [group.memory_bytes // max(1, it.memory_bytes)]
    limits += [group.sm_percent // it.sm] if it.sm else []
    limits += [group.cores // it.cores] if group.cores and it.cores else []
    return min(limits)
