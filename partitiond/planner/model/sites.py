"""Flattens an instance into arrays, for the compiled search and columns.

A *class* is the set of devices that hold the same, whatever hosts they are on. A *site* is one way
(`Way`) to run a device of a class: a sharing mode, or one replica alone. An *entry* is one item at
one site; its rate depends on the level of interference that its device reaches. All amounts are
the instance's integers, so a set that fits here fits in the instance.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.model.figures import SNAP
from partitiond.planner.model.types import Group, Instance, Item, Option, Way, rate_at

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]

RESOURCES: Final = ("memory", "sm", "cores", "memory slices", "compute slices")
"""Linear resources of a device, by column. Load and number of replicas are separate limits."""
NO_LIMIT: Final = 1 << 60
ROUNDING: Final = 1e-14
"""Relative error of a rate by floats, and more."""
POOLS: Final = ("cores", "host")
"""Resources that devices of a host share, by column of `entry_pool`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """The instance as arrays, without the rules that go beyond one device.

    C classes, Q sites (sorted by class), E entries (sorted by site), L levels, K kappas,
    R resources, M models (positions in `instance.needs`), G groups, D devices.

    Attributes:
        class_of: (G,) class of a group.
        site_class: (Q,)
        capacity: (Q, R) amounts one device has; NO_LIMIT if the resource does not limit.
        max_items: (Q,) replicas one device holds at its highest level.
        level: (Q, L) levels, ascending; the highest is repeated if there are fewer.
        limit_of: (Q, L, K) row of `busy_limit` at a level and a largest kappa; -1 if none.
        option_of: (Q, L, K) the option of the groups of that class.
        busy_limit: (B, N + 1) largest sum of loads for n replicas, at index n; -1 beyond.
        table: (Q,) offset of the site's MIG table in `tables`; -1 if it has none.
        table_size: (Q,) length of that table.
        tables: MIG tables end to end; 1 where the set with that code can be placed.
        entry_item, entry_model, entry_site: (E,).
        entry_top: (E,) position of the highest level the entry tolerates.
        entry_kappa: (E,) position of its kappa among all kappas.
        entry_busy: (E,) load, in 1 / SHARE_SCALE.
        entry_code: (E,) amount it adds to the code of a MIG set; 0 without MIG.
        entry_cost: (E,) cost beyond the device, in 1 / PRICE_SCALE.
        entry_use: (E, R)
        entry_pool: (E, 2) cores and host memory it takes.
        rates: (E, L) requests/s at each level it tolerates, in units of its need; 0 above.
        need_rate, need_min, need_max: (M,) rate (0 if none), least and largest number of replicas.
        need_weight: (M,) weight of `RATE_SCALE` units.
        need_rated: (M,).
        avoid: (M, M) 1 if two models never share a device.
        group_count, group_cost: (G,) devices, and cost of one in 1 / PRICE_SCALE.
        device_group, device_class: (D,).
        site_of: the site of each (group, option).
    """

    instance: Instance
    class_of: Ints
    site_class: Ints
    capacity: Ints
    max_items: Ints
    level: Floats
    limit_of: Ints
    option_of: Ints
    busy_limit: Ints
    table: Ints
    table_size: Ints
    tables: Bits
    entry_item: Ints
    entry_model: Ints
    entry_site: Ints
    entry_top: Ints
    entry_kappa: Ints
    entry_busy: Ints
    entry_code: Ints
    entry_cost: Ints
    entry_use: Ints
    entry_pool: Ints
    rates: Ints
    need_rate: Ints
    need_min: Ints
    need_max: Ints
    need_weight: Floats
    need_rated: Bits
    avoid: Bits
    group_count: Ints
    group_cost: Ints
    device_group: Ints
    device_class: Ints
    site_of: dict[tuple[int, int], int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Site:
    """One site of the first group of a class; `options` are positions in the group's options."""

    cls: int
    group: Group
    way: Way
    options: tuple[int, ...]


@functools.lru_cache(maxsize=1)
def build_sites(instance: Instance) -> Sites:
    """Flatten the instance into arrays."""
    class_of, sites = _classes(instance)
    site_of = {
        (group.index, k): q
        for group, cls in zip(instance.groups, class_of, strict=True)
        for q, site in enumerate(sites)
        if site.cls == cls
        for k in site.options
    }
    needs, position = instance.needs, {n.model: k for k, n in enumerate(instance.needs)}
    entries = [
        (q, instance.items[index], bears)
        for q, site in enumerate(sites)
        for index, bears in sorted(site.group.held[site.way].items())
        if instance.items[index].model in position
    ]
    levels = _levels(sites)
    of_site = ints([q for q, _, _ in entries])
    tops = np.array([bears for _, _, bears in entries], dtype=np.float64)
    top = (levels[of_site] <= tops[:, None]).sum(axis=1) - 1
    # The last level stands for all levels that a mode does not have.
    count = ints([len({*row}) for row in levels.tolist()])
    top = np.minimum(top, count[of_site] - 1) if entries else top
    kappas = sorted({o.kappa for g in instance.groups for o in g.options if o.mode is not None})
    limit_of, option_of, busy_limit = _limits(sites, levels, kappas)
    firsts = [site.group.options[site.options[0]] for site in sites]
    tables, table, table_size = tables_of(firsts)
    device_group = ints(list(instance.group_of))
    return Sites(
        instance=instance,
        class_of=ints(class_of),
        site_class=ints([site.cls for site in sites]),
        capacity=ints(
            [capacity_of(s.group, o) for s, o in zip(sites, firsts, strict=True)],
            len(RESOURCES),
        ),
        max_items=ints([max(s.group.options[k].max_items for k in s.options) for s in sites]),
        level=levels,
        limit_of=limit_of,
        option_of=option_of,
        busy_limit=busy_limit,
        table=table,
        table_size=table_size,
        tables=tables,
        entry_item=ints([it.index for _, it, _ in entries]),
        entry_model=ints([position[it.model] for _, it, _ in entries]),
        entry_site=of_site,
        entry_top=ints(top),
        entry_kappa=ints(
            [0 if firsts[q].mode is None else kappas.index(it.kappa) for q, it, _ in entries]
        ),
        entry_busy=ints([0 if firsts[q].mode is None else it.busy for q, it, _ in entries]),
        entry_code=ints(
            [g.step(it.mig_profile) if (g := firsts[q].geometry) else 0 for q, it, _ in entries]
        ),
        entry_cost=ints([it.cost for _, it, _ in entries]),
        entry_use=ints([use_of(it, firsts[q]) for q, it, _ in entries], len(RESOURCES)),
        entry_pool=ints([(it.cores, it.host_bytes) for _, it, _ in entries], len(POOLS)),
        rates=_rates(entries, levels, ints(top)),
        need_rate=ints([n.rate for n in needs]),
        need_min=ints([n.min_replicas for n in needs]),
        need_max=ints([n.max_replicas for n in needs]),
        need_weight=np.array([n.worth for n in needs], dtype=np.float64),
        need_rated=np.array([n.rated for n in needs], dtype=np.uint8),
        avoid=_who_avoids(instance),
        group_count=ints([len(g.bins) for g in instance.groups]),
        group_cost=ints([g.price for g in instance.groups]),
        device_group=device_group,
        device_class=ints(class_of)[device_group],
        site_of=site_of,
    )


def ints(values: Sequence[object] | Ints, columns: int | None = None) -> Ints:
    """Return an array of integers, reshaped to the given number of columns."""
    found = np.array(values, dtype=np.int64)
    # Without rows numpy cannot infer the columns, and without columns not the rows.
    return found if columns is None else found.reshape(len(values), columns)


def _classes(instance: Instance) -> tuple[list[int], list[_Site]]:
    """Return the class of each group, and all sites."""
    known: dict[tuple[object, ...], int] = {}
    class_of, sites = [], list[_Site]()
    for group in instance.groups:
        # Groups that hold the same share one `held` object.
        key = (id(group.held), group.memory_bytes, group.cores, group.sm_percent, group.price)
        if key not in known:
            known[key] = len(known)
            by_way = by_key((option.way, k) for k, option in enumerate(group.options))
            sites += [_Site(known[key], group, way, tuple(ks)) for way, ks in by_way.items()]
        class_of.append(known[key])
    return class_of, sites


def _levels(sites: Sequence[_Site]) -> Floats:
    each = [sorted({s.group.options[k].level for k in s.options}) for s in sites]
    longest = max((len(mine) for mine in each), default=1)
    rows = [[*mine, *[mine[-1]] * (longest - len(mine))] for mine in each]
    return np.array(rows, dtype=np.float64).reshape(len(sites), longest)


def _limits(
    sites: Sequence[_Site], levels: Floats, kappas: Sequence[float]
) -> tuple[Ints, Ints, Ints]:
    """Return rows of loads by site, level and kappa, the options of those rows, and the rows."""
    limit_of = np.full((*levels.shape, max(1, len(kappas))), -1, dtype=np.int64)
    option_of = limit_of.copy()
    known: dict[tuple[int, ...], int] = {}
    for q, site in enumerate(sites):
        steps = levels[q].tolist()
        for k in site.options:
            option = site.group.options[k]
            limits = option.busy_limit if option.mode is not None else (0, NO_LIMIT)
            crowd = kappas.index(option.kappa) if option.mode is not None else 0
            at = (q, steps.index(option.level), crowd)
            limit_of[at], option_of[at] = known.setdefault(limits, len(known)), k
    # A kappa without an option of its own uses the option of the next larger kappa.
    for crowd in range(limit_of.shape[2] - 2, -1, -1):
        missing = limit_of[:, :, crowd] < 0
        limit_of[missing, crowd] = limit_of[missing, crowd + 1]
        option_of[missing, crowd] = option_of[missing, crowd + 1]
    rows = np.full((len(known), max(map(len, known), default=2)), -1, dtype=np.int64)
    for row, at_row in known.items():
        rows[at_row, : len(row)] = row
    return limit_of, option_of, rows


def tables_of(options: Sequence[Option]) -> tuple[Bits, Ints, Ints]:
    """Return every distinct MIG table once, with each option's offset and size in it."""
    of_option = [b"" if o.geometry is None else o.geometry.feasible for o in options]
    tables = [table for table in dict.fromkeys(of_option) if table]
    start_of = dict(zip(tables, itertools.accumulate(map(len, tables), initial=0), strict=False))
    flat = np.frombuffer(b"".join(tables) or b"\0", dtype=np.uint8).copy()
    return flat, ints([start_of.get(t, -1) for t in of_option]), ints([*map(len, of_option)])


def _rates(entries: Sequence[tuple[int, Item, float]], levels: Floats, top: Ints) -> Ints:
    """Return `rate_at` of all entries, by floats where these are not too near a whole number."""
    alone = np.array([it.candidate.capacity_req_per_s * it.units for _, it, _ in entries])
    level = levels[[q for q, _, _ in entries]]
    rate = alone.reshape(-1, 1) / level - 1 / SNAP
    there = np.arange(levels.shape[1]) <= top[:, None]
    near = np.abs(rate - np.rint(rate)) <= ROUNDING * (1 + np.abs(rate))
    found = np.where(there & ~near, np.ceil(rate), 0.0).astype(np.int64)
    for e, at in np.argwhere(there & near).tolist():
        found[e, at] = rate_at(entries[e][1], float(level[e, at]))
    return found


def capacity_of(group: Group, option: Option) -> list[int]:
    """Return what a device of a group, run as an option, has of each resource; NO_LIMIT if the
    resource does not limit."""
    if option.geometry is not None:
        return [NO_LIMIT, NO_LIMIT, group.cores or NO_LIMIT, 8, 7]
    memory = group.memory_bytes - option.overhead_bytes
    return [memory, group.sm_percent, group.cores or NO_LIMIT, NO_LIMIT, NO_LIMIT]


def use_of(item: Item, option: Option) -> list[int]:
    """Return what an item takes of each resource of a device that is run as an option."""
    if option.geometry is not None:
        index = option.geometry.index(item.mig_profile)
        assert index is not None, "an item of another geometry is not among what fits"
        profile = option.geometry.profiles[index]
        return [0, 0, item.cores, profile.memory_slices, profile.compute_slices]
    return [item.memory_bytes, item.sm, item.cores, 0, 0]


def _who_avoids(instance: Instance) -> Bits:
    """Return the (M, M) matrix with 1 if two models never share a device."""
    position = {need.model: n for n, need in enumerate(instance.needs)}
    found = np.zeros((len(position), len(position)), dtype=np.uint8)
    for model, others in instance.ties.avoided.items():
        found[position[model], [position[other] for other in others]] = 1
    return found


def with_survival(sites: Sites) -> Sites:
    """Raise each need to what surviving a loss requires, when all demand is served.

    Without any one of n fault domains at least S of the rate is left. Summed over the domains,
    that is (n - 1) times the rate on one side and n S on the other, so the rate is at least
    S n / (n - 1), in at least two replicas. Only domains that can hold the model count.
    """
    rate, least = sites.need_rate.copy(), sites.need_min.copy()
    for position, need in enumerate(sites.instance.needs):
        if not need.domain_of or not (need.survive_rate or need.survive_replicas):
            continue
        mine = sites.entry_site[sites.entry_model == position]
        holding = np.isin(sites.device_class, sites.site_class[mine])
        domains = {need.domain_of[d] for d in np.flatnonzero(holding)}
        least[position] = max(int(least[position]), 2)
        if len(domains) > 1 and need.survive_rate:
            implied = -(-need.survive_rate * len(domains) // (len(domains) - 1))
            rate[position] = max(int(rate[position]), implied)
    return dataclasses.replace(sites, need_rate=rate, need_min=least)
