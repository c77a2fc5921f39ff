"""The instance as flat arrays, for the linear programs of the weighted bound.

A *place* is one way to run a device of one kind: (group, option). An *entry* is one replica of
one item at one place. All amounts are the instance's integers, so what fits here fits there.
"""

import dataclasses

import numpy as np

from partitiond.planner.sites import (
    NO_LIMIT,
    RESOURCES,
    Bits,
    Floats,
    Ints,
    capacity_of,
    code_of,
    ints,
    pools_of_devices,
    tables_of,
    use_of,
    who_avoids,
)
from partitiond.planner.types import Instance, Option


@dataclasses.dataclass(frozen=True)
class Problem:
    """The instance without its rules that go beyond one device.

    P places, E entries (sorted by place), R resources, M models (positions in `instance.needs`),
    G groups, D devices, L pools.

    Attributes:
        place_group, place_option: (P,) where a place is in the instance.
        place_start: (P + 1,) entries of place p are place_start[p]..place_start[p + 1].
        capacity: (P, R) amounts one device has; NO_LIMIT where it does not limit.
        max_items: (P,) replicas one device holds.
        busy_limit: (P, N + 1) largest sum of `entry_busy` for n replicas, at index n; rows of
            places that hold fewer are padded with -1.
        geometry: (P,) offset of the place's MIG table in `tables`, -1 without one.
        geometry_size: (P,) length of that table.
        tables: MIG tables end to end; 1 where the set with that code can be placed.
        entry_item, entry_model, entry_place: (E,).
        entry_rate: (E,) requests/s at the place's level, in 1 / RATE_SCALE.
        entry_use: (E, R).
        entry_busy: (E,) load, in millionths.
        entry_code: (E,) what it adds to the code of a MIG set; 0 without MIG.
        entry_cost: (E,) what it costs beyond the device, in 1 / PRICE_SCALE.
        entry_pool: (E, L) what it takes of each pool.
        need_rate, need_min, need_max: (M,) rate in 1 / RATE_SCALE (0 without one), replicas.
        need_weight: (M,) with priority applied.
        need_rated: (M,).
        avoid: (M, M) 1 where two models never share a device.
        group_count, group_cost: (G,) devices, and cost of one in 1 / PRICE_SCALE.
        device_group: (D,).
        pool_capacity: (L,).
        pool_of_device: (D, L) 1 where the device draws from the pool.
    """

    instance: Instance
    place_group: Ints
    place_option: Ints
    place_start: Ints
    capacity: Ints
    max_items: Ints
    busy_limit: Ints
    geometry: Ints
    geometry_size: Ints
    tables: Bits
    entry_item: Ints
    entry_model: Ints
    entry_place: Ints
    entry_rate: Ints
    entry_use: Ints
    entry_busy: Ints
    entry_code: Ints
    entry_cost: Ints
    entry_pool: Ints
    need_rate: Ints
    need_min: Ints
    need_max: Ints
    need_weight: Floats
    need_rated: Bits
    avoid: Bits
    group_count: Ints
    group_cost: Ints
    device_group: Ints
    pool_capacity: Ints
    pool_of_device: Bits


_last: list[Problem] = []
"""The problem made last: one solve asks for it several times, and of thousands of models it takes
seconds. Nobody writes into its arrays."""


def build_problem(instance: Instance) -> Problem:
    """Flatten the instance."""
    for known in _last[:1]:
        if known.instance is instance:
            return known
    made = _build(instance)
    _last[:] = [made]
    return made


def _build(instance: Instance) -> Problem:
    places = [(g, k) for g in instance.groups for k in range(len(g.options))]
    position = {need.model: n for n, need in enumerate(instance.needs)}
    rows = [
        (p, index, instance.items[index], g.options[k])
        for p, (g, k) in enumerate(places)
        for index in g.fits[k]
        if instance.items[index].model in position
    ]
    counts = np.bincount(ints([p for p, _, _, _ in rows]), minlength=len(places))
    tables, offsets, sizes = tables_of([g.options[k] for g, k in places])
    needs = instance.needs
    return Problem(
        instance=instance,
        place_group=ints([g.index for g, _ in places]),
        place_option=ints([k for _, k in places]),
        place_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        capacity=ints([capacity_of(instance, g, g.options[k]) for g, k in places], len(RESOURCES)),
        max_items=ints([g.options[k].max_items for g, k in places]),
        busy_limit=_busy_limits([g.options[k] for g, k in places]),
        geometry=offsets,
        geometry_size=sizes,
        tables=tables,
        entry_item=ints([index for _, index, _, _ in rows]),
        entry_model=ints([position[item.model] for _, _, item, _ in rows]),
        entry_place=ints([p for p, _, _, _ in rows]),
        entry_rate=ints([instance.rate(index, option) for _, index, _, option in rows]),
        entry_use=ints([use_of(item, option) for _, _, item, option in rows], len(RESOURCES)),
        entry_busy=ints([item.busy for _, _, item, _ in rows]),
        entry_code=ints([code_of(item, option) for _, _, item, option in rows]),
        entry_cost=ints([item.cost for _, _, item, _ in rows]),
        entry_pool=_pool_use(instance, ints([index for _, index, _, _ in rows])),
        need_rate=ints([n.rate for n in needs]),
        need_min=ints([n.min_replicas for n in needs]),
        need_max=ints([n.max_replicas for n in needs]),
        need_weight=np.array([n.worth for n in needs], dtype=np.float64),
        need_rated=np.array([n.rated for n in needs], dtype=np.uint8),
        avoid=who_avoids(instance),
        group_count=ints([len(g.bins) for g in instance.groups]),
        group_cost=ints([g.price for g in instance.groups]),
        device_group=ints(list(instance.group_of)),
        pool_capacity=ints([p.capacity for p in instance.pools]),
        pool_of_device=pools_of_devices(instance),
    )


def _busy_limits(options: list[Option]) -> Ints:
    longest = max((len(o.busy_limit) for o in options), default=1)
    found = np.full((len(options), longest), -1, dtype=np.int64)
    for row, option in enumerate(options):
        limits = option.busy_limit if option.mode is not None else (0, NO_LIMIT)
        found[row, : len(limits)] = limits
    return found


def _pool_use(instance: Instance, entry_item: Ints) -> Ints:
    """(E, L) as `Instance.pool_use`, which does not depend on the pool but for its kind."""
    found = np.zeros((len(entry_item), len(instance.pools)), dtype=np.int64)
    by_kind: dict[str, Ints] = {}
    for pool in instance.pools:
        if pool.kind not in by_kind:
            items = range(len(instance.items))
            by_kind[pool.kind] = ints([instance.pool_use(pool, i) for i in items])[entry_item]
        found[:, pool.index] = by_kind[pool.kind]
    return found
