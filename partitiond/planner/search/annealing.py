"""Converts an instance into the arrays of the compiled search, and its answers into packings."""

import collections
import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from partitiond.planner.kernels.anneal import Here, Scratch, revalue
from partitiond.planner.kernels.loads import (
    COUNT,
    CROWD,
    EMPTY,
    HELD_AS,
    LEVEL,
    MOST_ITEMS,
    USED,
    Data,
    SearchState,
    UndoJournal,
    add,
    fits,
)
from partitiond.planner.model.sites import NO_LIMIT, Floats, Ints, Sites, ints
from partitiond.planner.pack.packing import Packing

CELLS: Final = 128
"""Maximum number of steps into which a demand is cut to price what it lacks. Chosen."""
LEAST_PRICE: Final = 1e-9


def make_data(sites: Sites, price: Floats, *, by_cost: bool) -> Data:
    """Return the problem of one search.

    Args:
        sites: the instance as arrays.
        price: (E,) what an entry takes of devices, in devices' cost; above 0.
        by_cost: True to serve all demand; False to maximise the weighted rates.
    """
    models = len(sites.need_rate)
    limits = np.where(sites.capacity < NO_LIMIT, np.maximum(sites.capacity, 1), NO_LIMIT)
    # Entries are sorted by site.
    order = np.argsort(sites.entry_model, kind="stable").astype(np.int64)
    starts = np.searchsorted(sites.entry_model[order], np.arange(models + 1)).astype(np.int64)
    cell, lacking, short = _prices_of_lack(sites, price, order, starts, by_cost=by_cost)
    slope, limit = _slopes(sites, by_cost=by_cost)
    if not by_cost:
        short[:] = 1.0 + float(np.sum(slope * np.minimum(limit, sites.need_rate)))
    instance = sites.instance
    pools = [instance.groups[group].pools for group in instance.group_of]
    rows = [sites.site_class, sites.max_items, sites.table, sites.table_size]
    entries = [sites.entry_model, sites.entry_site, sites.entry_busy, sites.entry_kappa]
    entries += [sites.entry_top, sites.entry_code, sites.entry_cost]
    needs = [sites.need_rate, sites.need_min, sites.need_max, limit]
    spread, left, left_number, domain_of = _survival(sites, by_cost=by_cost)
    needs += [_frozen_models(sites), starts[:-1], starts[1:], spread, left, left_number]
    return Data(
        sites=np.column_stack([*rows, sites.capacity]),
        limit_of=sites.limit_of,
        busy_limit=sites.busy_limit,
        tables=sites.tables,
        entries=np.column_stack([*entries, sites.entry_use]),
        rates=sites.rates,
        entry_pool=sites.entry_pool,
        models=np.column_stack(needs),
        model_entry=order,
        model_site=_by_site(sites, order, models),
        least_use=_least_use(sites, models),
        first_site=np.searchsorted(
            sites.site_class, np.arange(sites.class_of.max(initial=-1) + 2)
        ).astype(np.int64),
        values=np.column_stack([slope, short, 1.0 / cell, *_merits(sites, price)]),
        lacking=lacking,
        price=np.maximum(price, LEAST_PRICE),
        pull=np.where(sites.capacity < NO_LIMIT, 1.0 / limits, 0.0),
        avoid=sites.avoid,
        device_class=sites.device_class,
        device_group=sites.device_group,
        group_cost=sites.group_cost,
        pool_capacity=ints([pool.capacity for pool in instance.pools]),
        pool_kind=ints([0 if pool.kind == "cores" else 1 for pool in instance.pools]),
        pool_start=np.cumsum([0, *map(len, pools)], dtype=np.int64),
        pool_list=ints([*itertools.chain.from_iterable(pools)]),
        has_avoid=int(sites.avoid.any()),
        domain_of=domain_of,
    )


def _merits(sites: Sites, price: Floats) -> tuple[Floats, Floats]:
    """Return (M,) the most weighted rate per price, and the largest price, of a model's entries."""
    merit, largest = np.zeros((2, len(sites.need_rate)))
    model = sites.entry_model
    need = np.where(sites.need_rate > 0, sites.need_rate, NO_LIMIT)[model]
    rate = sites.need_weight[model] * np.minimum(sites.rates[:, 0], need)
    np.maximum.at(merit, model, rate / np.maximum(price, LEAST_PRICE))
    np.maximum.at(largest, model, price)
    return merit, largest


def _by_site(sites: Sites, order: Ints, models: int) -> Ints:
    """Return (M, Q + 1) the offsets in `order` of a model's entries at a site."""
    count = len(sites.site_class)
    key = sites.entry_model[order] * count + sites.entry_site[order]
    wanted = np.arange(models)[:, None] * count + np.arange(count + 1)[None, :]
    return np.searchsorted(key, wanted).astype(np.int64)


def _least_use(sites: Sites, models: int) -> Ints:
    """Return (M, Q, R) the least an entry takes; a model without an entry there gets NO_LIMIT."""
    found = _zeros(models, len(sites.site_class), sites.entry_use.shape[1]) + NO_LIMIT
    np.minimum.at(found, (sites.entry_model, sites.entry_site), sites.entry_use)
    return found


def _frozen_models(sites: Sites) -> Ints:
    """Flag models that must be near others, or others near them: the search does not move these."""
    tied = {*sites.instance.ties.near, *sites.instance.ties.near_to}
    return ints([need.model in tied for need in sites.instance.needs])


def _survival(sites: Sites, *, by_cost: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Return (M,) row, rate and replicas of models that must survive a loss; (S, D) fault domains.

    For goodput, the rate left after a loss does not count.
    """
    needs = sites.instance.needs
    row, rate, number = _zeros(len(needs)) - 1, _zeros(len(needs)), _zeros(len(needs))
    domains: list[tuple[int, ...]] = []
    for m, need in enumerate(needs):
        if by_cost and need.domain_of and (need.survive_rate or need.survive_replicas):
            row[m], rate[m], number[m] = len(domains), need.survive_rate, need.survive_replicas
            domains.append(need.domain_of)
    devices = len(sites.device_group)
    return row, rate, number, np.array(domains, dtype=np.int64).reshape(len(domains), devices)


def _slopes(sites: Sites, *, by_cost: bool) -> tuple[Floats, Ints]:
    """Return the worth of a unit of rate, and up to which rate; unrated models count only alone."""
    rated = sites.need_rated.astype(bool)
    if by_cost:
        return np.zeros(len(rated)), sites.need_rate.copy()
    counts = rated if rated.any() else ~rated
    slope = np.where(counts, sites.need_weight, 0.0)
    return slope, np.where(rated, sites.need_rate, NO_LIMIT).astype(np.int64)


def _prices_of_lack(
    sites: Sites, price: Floats, order: Ints, starts: Ints, *, by_cost: bool
) -> tuple[Ints, Floats, Floats]:
    """Return the width of a cell of rate, and the prices of lacking cells, and of a replica."""
    models = len(sites.need_rate)
    cell = np.ones(models, dtype=np.int64)
    lacking = np.zeros((models, CELLS + 2))
    short = np.zeros(models)
    for m in range(models):
        mine = order[starts[m] : starts[m + 1]]
        if not len(mine):
            continue
        short[m] = max(LEAST_PRICE, float(price[mine].min()))
        rate = int(sites.need_rate[m])
        rates = np.minimum(sites.rates[mine, 0], rate)
        unit = math.gcd(rate, *(int(r) for r in rates)) or 1
        cell[m] = unit if rate // unit <= CELLS else max(1, -(-rate // CELLS))
        if by_cost and rate:
            _fill_row(lacking[m], price[mine], rates // cell[m], -(-rate // int(cell[m])))
    return cell, lacking, short


def _fill_row(row: Floats, price: Floats, steps: Ints, cells: int) -> None:
    """Fill in the cheapest cover of 1, 2, ... cells by whole replicas; beyond, repeat the last."""
    useful = steps > 0
    if not useful.any():
        row[1:] = float(price.max()) * (1 + np.arange(len(row) - 1))
        return
    price, steps = price[useful], steps[useful]
    for amount in range(1, cells + 1):
        row[amount] = float(np.min(price + row[np.maximum(0, amount - steps)]))
    row[cells + 1 :] = row[cells]


def make_here(sites: Sites, runs: Sequence[tuple[int, int]], most_gone: int | None) -> Here:
    """Return replicas that run and could stay, by device and item, with the limit on leaving."""
    devices = len(sites.device_group)
    most = max([1, *collections.Counter(index for index, _ in runs).values()])
    here = Here(
        item=sites.entry_item,
        runs=_zeros(devices, most),
        number=_zeros(devices),
        gone=_zeros(devices),
        most_gone=-1 if most_gone is None else most_gone,
    )
    for index, item in sorted(runs):
        here.runs[index, here.number[index]] = item
        here.number[index] += 1
    return here


def make_scratch(data: Data, seed: int) -> Scratch:
    """Return the working memory of a search, apart from its states."""
    devices, models = len(data.device_group), len(data.models)
    mixed = (seed * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D) % 2**64
    return Scratch(
        journal=UndoJournal(
            mark=_zeros(devices),
            devices=_zeros(devices),
            size=_zeros(1),
            held=_zeros(devices),
            items=_zeros(devices, _most_items(data)),
        ),
        rng=np.array([mixed or 1], dtype=np.uint64),
        models=_zeros(models),
        key=np.zeros(models),
        mark=_zeros(models),
        seen=_zeros(len(data.group_cost)),
        counter=_zeros(2),
    )


def _zeros(*shape: int) -> Ints:
    return np.zeros(shape, dtype=np.int64)


def _most_items(data: Data) -> int:
    return int(max(1, data.sites[:, MOST_ITEMS].max(initial=1)))


def empty_state(data: Data) -> SearchState:
    """Return a state with all devices empty."""
    devices, models = len(data.device_group), len(data.models)
    domains = int(data.domain_of.max(initial=-1)) + 1
    state = SearchState(
        devices=_zeros(devices, USED + data.pull.shape[1]),
        items=_zeros(devices, _most_items(data)),
        models=_zeros(models, 3),
        pool=_zeros(len(data.pool_capacity)),
        cost=_zeros(1),
        worth=np.zeros(1),
        by_domain=_zeros(len(data.domain_of), domains, 2),
    )
    state.devices[:, HELD_AS] = EMPTY
    revalue(data, state)
    return state


def load_packing(sites: Sites, data: Data, packing: Packing, state: SearchState) -> None:
    """Put a packing's contents into an empty state."""
    pairs = zip(sites.entry_site.tolist(), sites.entry_item.tolist(), strict=True)
    entry = {pair: e for e, pair in enumerate(pairs)}
    for d, load in enumerate(packing.loads):
        for item in load.items:
            assert load.option is not None
            e = entry[sites.site_of[load.group, load.option], item]
            level = fits(data, state, d, e)
            assert level >= 0, "a packing holds what fits"
            add(data, state, d, e, level)


def to_packing(sites: Sites, state: SearchState) -> Packing:
    """Return a state's contents as a packing."""
    packing = Packing(sites.instance)
    for d in np.flatnonzero(state.devices[:, COUNT]):
        row = state.devices[d]
        option = int(sites.option_of[row[HELD_AS], row[LEVEL], row[CROWD]])
        for e in state.items[d, : row[COUNT]]:
            packing.add(int(d), int(sites.entry_item[e]), option)
    return packing
