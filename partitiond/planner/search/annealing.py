"""Converts an instance into the arrays of the compiled search, and its answers into packings."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.kernels.loads import Data, Loads
from partitiond.planner.model.sites import NO_LIMIT, Floats, Ints, Sites, ints, with_survival
from partitiond.planner.pack.packing import Packing

GRADE: Final = 0.1
"""Part of the price of what is missing, by its amount: of replicas that slow each other down, a
second one may leave as many whole ones to be found, and has to be a step. Chosen, not measured."""
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
    if by_cost:  # else nothing is gained on the way from all demand to what survives a loss
        sites = with_survival(sites)
    models = len(sites.need_rate)
    # Entries are sorted by site.
    order = np.argsort(sites.entry_model, kind="stable").astype(np.int64)
    return Data(
        sites,
        _needs_of(sites, price, order, by_cost=by_cost),
        {
            "price": np.maximum(price, LEAST_PRICE),
            "model_entry": order,
            "model_site": _by_site(sites, order, models),
            "least_use": _least_use(sites, models),
            **_places_of(sites),
        },
    )


def _needs_of(sites: Sites, price: Floats, order: Ints, *, by_cost: bool) -> dict[str, Any]:
    """Return what models want, by the names of `Data`'s attributes."""
    starts = np.searchsorted(sites.entry_model[order], np.arange(len(sites.need_rate) + 1))
    cell, lacking, short = _prices_of_lack(sites, price, order, starts, by_cost=by_cost)
    slope, limit = _slopes(sites, by_cost=by_cost)
    if not by_cost:
        # A missing replica outweighs all that models could get, those without a rate as well.
        held = len(sites.device_group) * int(sites.max_items.max(initial=1))
        most = np.zeros(len(slope))
        np.maximum.at(most, sites.entry_model, sites.rates.max(axis=1, initial=0))
        short[:] = 1.0 + float(np.sum(slope * np.minimum(limit, most * held)))
    merit, largest = _merits(sites, price)
    spread, left, left_number, domain_of = _survival(sites, by_cost=by_cost)
    near, tied = _nearness(sites)
    return {
        "limit": limit,
        "near": near,
        "tied": tied,
        "spread": spread,
        "left": left,
        "left_number": left_number,
        "domain_of": domain_of,
        "slope": slope,
        "short": short,
        "per_cell": 1.0 / cell,
        "lacking": lacking,
        "merit": merit,
        "largest": largest,
    }


def _places_of(sites: Sites) -> dict[str, Any]:
    """Return what devices have, by the names of `Data`'s attributes."""
    instance = sites.instance
    limits = np.where(sites.capacity < NO_LIMIT, np.maximum(sites.capacity, 1), NO_LIMIT)
    pools = [instance.groups[group].pools for group in instance.group_of]
    classes = np.arange(sites.class_of.max(initial=-1) + 2)
    return {
        "first_site": np.searchsorted(sites.site_class, classes),
        "pull": np.where(sites.capacity < NO_LIMIT, 1.0 / limits, 0.0),
        "pool_capacity": ints([pool.capacity for pool in instance.pools]),
        "pool_kind": ints([0 if pool.kind == "cores" else 1 for pool in instance.pools]),
        "pool_start": np.cumsum([0, *map(len, pools)], dtype=np.int64),
        "pool_list": ints([*itertools.chain.from_iterable(pools)]),
        "host_of": ints(instance.ties.host_of or [0] * len(instance.group_of)),
    }


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
    found = np.full((models, *sites.capacity.shape), NO_LIMIT, dtype=np.int64)
    np.minimum.at(found, (sites.entry_model, sites.entry_site), sites.entry_use)
    return found


def _nearness(sites: Sites) -> tuple[Ints, Ints]:
    """Return the pairs of models of which the first must be near the second, and (M,) rows of the
    models in them."""
    ties, position = sites.instance.ties, {n.model: m for m, n in enumerate(sites.instance.needs)}
    pairs = [(m, other) for m, others in ties.near.items() for other in sorted(others - {m})]
    near = [position[model] for pair in pairs for model in pair]
    tied = np.full(len(position), -1, dtype=np.int64)
    tied[sorted({*near})] = np.arange(len({*near}))
    return ints(near), tied


def _survival(sites: Sites, *, by_cost: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Return (M,) row, rate and replicas of models that must survive a loss; (S, D) fault domains.

    For goodput, the rate left after a loss does not count.
    """
    needs = sites.instance.needs
    row, rate, number = (
        np.zeros(len(needs), dtype=np.int64) - 1,
        np.zeros(len(needs), dtype=np.int64),
        np.zeros(len(needs), dtype=np.int64),
    )
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
    row += GRADE * float(np.min(price / steps)) * np.minimum(np.arange(len(row)), cells)


def running_on(sites: Sites, runs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the items that run on each device and could stay, from (device, item)."""
    found = by_key(sorted(runs))
    return [found[d] for d in range(len(sites.device_group))]


def load_packing(sites: Sites, packing: Packing, state: Loads) -> None:
    """Put a packing's contents into an answer without contents."""
    pairs = zip(sites.entry_site.tolist(), sites.entry_item.tolist(), strict=True)
    entry = {pair: e for e, pair in enumerate(pairs)}
    for d, load in enumerate(packing.loads):
        for item in load.items:
            assert load.option is not None
            e = entry[sites.site_of[load.group, load.option], item]
            level = state.fits(d, e)
            assert level >= 0, "a packing holds what fits"
            state.add(d, e, level)


def to_packing(sites: Sites, state: Loads) -> Packing:
    """Return an answer's contents as a packing."""
    packing = Packing(sites.instance)
    for d in range(len(sites.device_group)):
        for e in state.entries_on(d):
            option = int(sites.option_of[state.site[d], state.level[d], state.crowd[d]])
            packing.add(d, int(sites.entry_item[e]), option)
    return packing
