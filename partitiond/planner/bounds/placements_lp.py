"""Prepares an instance for linear programs over a whole fleet: merged classes and "pours".

Groups that differ only in the host whose pools they draw from become one class. The pools of hosts
with the same devices and capacities become one pool with the sum of their capacities. A *pour* is
an entry of `Sites` on a class of devices at one level; it takes shares of a device and of pools.
"""

import dataclasses

import numpy as np

from partitiond.planner.model.sites import NO_LIMIT, Floats, Ints, Sites, ints
from partitiond.planner.model.types import PRICE_SCALE


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Classes of devices that hold the same and draw from equal pools.

    Merging equal devices and hosts does not loosen a bound.

    Attributes:
        of_group: (G,) the class of each group.
        site_class: (C,) the class of `Sites`, which says what a device can hold.
        count, cost: (C,) number of devices, and the cost of one.
        draws: (C, P) how many of the pools merged into each pool a device draws from.
        column: (P,) column of `Sites.entry_pool` with what a replica takes of the pool.
        whole: (P,) capacity of each merged pool. Bytes and cores differ by ten orders of
            magnitude, so programs count in shares of it.
        pools: number of merged pools.
    """

    of_group: Ints
    site_class: Ints
    count: Ints
    cost: Floats
    draws: Ints
    column: Ints
    whole: Floats
    pools: int


def make_classes(sites: Sites) -> Classes:
    """Merge groups that are alike into classes."""
    instance = sites.instance
    keys = [
        (pool.kind, pool.capacity, tuple(sorted(sites.device_class[list(pool.bins)].tolist())))
        for pool in instance.pools
    ]
    alike: dict[tuple[int, tuple[tuple[str, int, tuple[int, ...]], ...]], list[int]] = {}
    for group in instance.groups:
        drawn = tuple(sorted(keys[p] for p in group.pools))
        alike.setdefault((int(sites.class_of[group.index]), drawn), []).append(group.index)
    merged = sorted(set(keys))
    of_group = np.zeros(len(instance.groups), dtype=np.int64)
    for cls, groups in enumerate(alike.values()):
        of_group[groups] = cls
    first = [groups[0] for groups in alike.values()]
    return Classes(
        of_group=of_group,
        site_class=np.array([cls for cls, _ in alike], dtype=np.int64),
        count=np.bincount(of_group, sites.group_count, len(alike)).astype(np.int64),
        cost=np.asarray(sites.group_cost[first] / PRICE_SCALE, dtype=np.float64),
        draws=ints([[drawn.count(key) for key in merged] for _, drawn in alike], len(merged)),
        column=ints([0 if kind == "cores" else 1 for kind, _, _ in merged]),
        # A replica takes more than all of an empty pool, or nothing.
        whole=np.array([max(1, keys.count(key) * key[1]) for key in merged], dtype=np.float64),
        pools=len(merged),
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pours:
    """All ways to place one replica: an entry on a class of devices at a level that it tolerates.

    N pours, W ways to run a device: (class, site, level), sorted by class. R shares: of the
    resources of `Sites`, of the load, and of the number of replicas.

    Attributes:
        way_class, way_site: (W,)
        entry, model, way: (N,) the entry that is poured, its model, and the way to run a device.
        rate: (N,) requests/s at that level, in units of the need.
        share: (N, R) share of one device that the replica takes.
        pool: (N, P) share of each merged pool that the replica takes.
    """

    sites: Sites
    classes: Classes
    way_class: Ints
    way_site: Ints
    entry: Ints
    model: Ints
    way: Ints
    rate: Ints
    share: Floats
    pool: Floats


def make_pours(sites: Sites) -> Pours:
    """Return all ways to place one replica."""
    classes = make_classes(sites)
    entry, at = _places(sites)
    site, levels = sites.entry_site[entry], sites.limit_of.shape[1]
    share = _shares(sites, entry, sites.limit_of[site, at, sites.entry_kappa[entry]])
    # Classes of one site class have the same pours, each class with ways of its own.
    picked = [np.flatnonzero(sites.site_class[site] == held) for held in classes.site_class]
    of_class = np.repeat(np.arange(len(picked)), [len(mine) for mine in picked])
    every = np.concatenate([*picked, np.empty(0, dtype=np.int64)]).astype(np.int64)
    codes = (of_class * len(sites.site_class) + site[every]) * levels + at[every]
    ways, way = np.unique(codes, return_inverse=True)
    entry, ways = entry[every], ways // levels
    taken = classes.draws[of_class] * sites.entry_pool[entry][:, classes.column]
    return Pours(
        sites=sites,
        classes=classes,
        way_class=ways // max(1, len(sites.site_class)),
        way_site=ways % max(1, len(sites.site_class)),
        entry=entry,
        model=sites.entry_model[entry],
        way=way.reshape(-1).astype(np.int64),
        rate=sites.rates[entry, at[every]],
        share=share[every],
        pool=np.asarray(taken / classes.whole, dtype=np.float64),
    )


def _places(sites: Sites) -> tuple[Ints, Ints]:
    """Return entries and the levels that they tolerate, whatever the largest kappa on a device."""
    site, kappa = sites.entry_site, sites.entry_kappa
    level = np.arange(sites.limit_of.shape[1])
    own = sites.limit_of[site[:, None], level, kappa[:, None]]
    alone = sites.busy_limit[:, :2].max(axis=1, initial=-1)
    bears = (level <= sites.entry_top[:, None]) & (own >= 0)
    bears &= alone[own] >= sites.entry_busy[:, None]
    entry, at = np.nonzero(bears)
    return entry, at


def _shares(sites: Sites, entry: Ints, row: Ints) -> Floats:
    """Return the (N, R) shares of a device that each entry takes, given its row of `busy_limit`.

    The load of n replicas is at most `busy_limit[n]`, which lies under a line I - s n, so the sum
    of (busy + s) is at most I: linear whatever the interference. If replicas of several kappas
    share a device, the row of the largest kappa counts. By its own row a replica takes no more
    than by that row: s grows with kappa, and (busy + s) / (limit + s) grows with s.
    """
    capacity = sites.capacity[sites.entry_site[entry]]
    limited = (capacity > 0) & (capacity < NO_LIMIT)
    found = np.where(limited, sites.entry_use[entry] / np.maximum(capacity, 1), 0.0)
    lines = np.array([_line(limit) for limit in sites.busy_limit]).reshape(-1, 3)
    most, slope, level = lines[row].T
    load = np.where(level > 0, (sites.entry_busy[entry] + slope) / np.maximum(level, 1.0), 0.0)
    return np.column_stack([found, load, 1.0 / np.maximum(most, 1.0)])


def _line(limit: Ints) -> tuple[float, float, float]:
    """Return replicas, slope and level of the line above a row of `busy_limit`; level 0 if load
    does not limit."""
    most = int(np.flatnonzero(limit >= 0).max(initial=0))
    if most < 1 or limit[1] >= NO_LIMIT / 2:
        return float(most), 0.0, 0.0
    each = limit[1 : most + 1].astype(np.float64)
    slope = max(0.0, float(each[0] - each[-1]) / (most - 1)) if most > 1 else 0.0
    level = float((each + slope * np.arange(1, most + 1)).max())
    return float(most), slope, max(0.0, level)
