"""Makes the arrays of the compiled search from a problem, and packings from its answers."""

import dataclasses
import math
from typing import Final

import numpy as np

from partitiond.planner.arrays import NO_LIMIT, Floats, Ints, Problem
from partitiond.planner.kernels.search import Scratch, revalue
from partitiond.planner.kernels.state import (
    COUNT,
    EMPTY,
    HELD_AS,
    MOST_ITEMS,
    USED,
    Data,
    Journal,
    State,
    add,
)
from partitiond.planner.packing import Packing

CELLS: Final = 128
"""Steps into which a demand is cut, at most, when what it lacks is priced."""
NO_BUDGET: Final = 1 << 62
LEAST_PRICE: Final = 1e-9


def make_data(problem: Problem, price: Floats, pull: Floats, *, by_cost: bool) -> Data:
    """The question of one search.

    Args:
        problem: the instance.
        price: (E,) what an entry takes of devices, in devices' cost; above 0.
        pull: (P, R) worth of one unit of a free resource of a place.
        by_cost: whether everything is to be served, or the weighted rates count.
    """
    models = len(problem.need_rate)
    order = np.argsort(problem.entry_model, kind="stable").astype(np.int64)
    starts = np.searchsorted(problem.entry_model[order], np.arange(models + 1)).astype(np.int64)
    cell, lacking, short = _prices_of_lack(problem, price, order, starts, by_cost=by_cost)
    slope, limit = _slopes(problem, by_cost=by_cost)
    if not by_cost:
        short[:] = 1.0 + float(np.sum(slope * np.minimum(limit, problem.need_rate)))
    pools = [np.flatnonzero(row) for row in problem.pool_of_device]
    places = [problem.place_group, problem.max_items, problem.geometry, problem.geometry_size]
    entries = [problem.entry_model, problem.entry_place, problem.entry_rate, problem.entry_busy]
    needs = [problem.need_rate, problem.need_min, problem.need_max, limit]
    needs += [frozen_models(problem), starts[:-1], starts[1:]]
    return Data(
        places=np.column_stack([*places, problem.capacity]),
        busy_limit=problem.busy_limit,
        tables=problem.tables,
        entries=np.column_stack(
            [*entries, problem.entry_code, problem.entry_cost, problem.entry_use]
        ),
        entry_pool=problem.entry_pool,
        models=np.column_stack(needs),
        model_entry=order,
        values=np.column_stack([slope, short, 1.0 / cell]),
        lacking=lacking,
        price=np.maximum(price, LEAST_PRICE),
        pull=np.where(problem.capacity < NO_LIMIT, pull, 0.0),
        avoid=problem.avoid,
        device_group=problem.device_group,
        group_cost=problem.group_cost,
        pool_capacity=problem.pool_capacity,
        pool_start=np.cumsum([0, *(len(p) for p in pools)], dtype=np.int64),
        pool_list=np.concatenate([*pools, np.zeros(0, dtype=np.int64)]).astype(np.int64),
        has_avoid=int(problem.avoid.any()),
    )


def frozen_models(problem: Problem) -> Ints:
    """Models whose rules go beyond one device: the search leaves them where they are."""
    needs = problem.instance.needs
    tied = {name for need in needs for name in need.near}
    return np.array(
        [bool(need.domain_of or need.near or need.name in tied) for need in needs], dtype=np.int64
    )


def _slopes(problem: Problem, *, by_cost: bool) -> tuple[Floats, Ints]:
    """Worth of one unit of rate, and up to which rate; models without one count only alone."""
    rated = problem.need_rated.astype(bool)
    if by_cost:
        return np.zeros(len(rated)), problem.need_rate.copy()
    counts = rated if rated.any() else ~rated
    slope = np.where(counts, problem.need_weight, 0.0)
    return slope, np.where(rated, problem.need_rate, NO_LIMIT).astype(np.int64)


def _prices_of_lack(
    problem: Problem, price: Floats, order: Ints, starts: Ints, *, by_cost: bool
) -> tuple[Ints, Floats, Floats]:
    """Width of a cell of rate, price of lacking so many cells, price of lacking a replica."""
    models = len(problem.need_rate)
    cell = np.ones(models, dtype=np.int64)
    lacking = np.zeros((models, CELLS + 2))
    short = np.zeros(models)
    for m in range(models):
        mine = order[starts[m] : starts[m + 1]]
        if not len(mine):
            continue
        short[m] = max(LEAST_PRICE, float(price[mine].min()))
        rate = int(problem.need_rate[m])
        rates = np.minimum(problem.entry_rate[mine], rate)
        unit = math.gcd(rate, *(int(r) for r in rates)) or 1
        cell[m] = unit if rate // unit <= CELLS else max(1, -(-rate // CELLS))
        if by_cost and rate:
            _fill_row(lacking[m], price[mine], rates // cell[m], -(-rate // int(cell[m])))
    return cell, lacking, short


def _fill_row(row: Floats, price: Floats, steps: Ints, cells: int) -> None:
    """Cheapest cover of 1, 2, ... cells by whole replicas; beyond the last as the last."""
    useful = steps > 0
    if not useful.any():
        row[1:] = float(price.max()) * (1 + np.arange(len(row) - 1))
        return
    price, steps = price[useful], steps[useful]
    for amount in range(1, cells + 1):
        row[amount] = float(np.min(price + row[np.maximum(0, amount - steps)]))
    row[cells + 1 :] = row[cells]


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search writes to: where it is, the best so far, and scratch."""

    state: State
    best: State
    journal: Journal
    scratch: Scratch
    budget: Ints
    rng: np.ndarray[tuple[int], np.dtype[np.uint64]]


def make_space(data: Data, seed: int) -> Space:
    """Space for one search; devices are empty."""
    devices, models = len(data.device_group), len(data.models)
    most = int(max(1, data.places[:, MOST_ITEMS].max(initial=1)))
    return Space(
        empty_state(data),
        empty_state(data),
        Journal(
            mark=np.zeros(devices, dtype=np.int64),
            devices=np.zeros(devices, dtype=np.int64),
            size=np.zeros(1, dtype=np.int64),
            held=np.zeros(devices, dtype=np.int64),
            items=np.zeros((devices, most), dtype=np.int64),
        ),
        Scratch(
            models=np.zeros(models, dtype=np.int64),
            key=np.zeros(models),
            mark=np.zeros(models, dtype=np.int64),
            seen=np.zeros(len(data.group_cost), dtype=np.int64),
            counter=np.zeros(2, dtype=np.int64),
        ),
        np.full(1, NO_BUDGET, dtype=np.int64),
        np.array([(seed * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D) % 2**64 or 1], dtype=np.uint64),
    )


def empty_state(data: Data) -> State:
    """All devices empty."""
    devices, models = len(data.device_group), len(data.models)
    most = int(max(1, data.places[:, MOST_ITEMS].max(initial=1)))
    state = State(
        devices=np.zeros((devices, USED + data.pull.shape[1]), dtype=np.int64),
        items=np.zeros((devices, most), dtype=np.int64),
        models=np.zeros((models, 2), dtype=np.int64),
        pool=np.zeros(len(data.pool_capacity), dtype=np.int64),
        cost=np.zeros(1, dtype=np.int64),
        worth=np.zeros(1),
    )
    state.devices[:, HELD_AS] = EMPTY
    revalue(data, state)
    return state


def load_packing(problem: Problem, data: Data, packing: Packing, state: State) -> None:
    """Put what a packing holds into an empty state."""
    entry = {
        (int(p), int(i)): e
        for e, (p, i) in enumerate(zip(problem.entry_place, problem.entry_item, strict=True))
    }
    place = {
        (int(g), int(k)): p
        for p, (g, k) in enumerate(zip(problem.place_group, problem.place_option, strict=True))
    }
    for d, load in enumerate(packing.loads):
        for item in load.items:
            assert load.option is not None
            add(data, state, d, entry[place[load.group, load.option], item])


def to_packing(problem: Problem, state: State) -> Packing:
    """What a state holds as a packing."""
    packing = Packing(problem.instance)
    for d in np.flatnonzero(state.devices[:, COUNT]):
        option = int(problem.place_option[state.devices[d, HELD_AS]])
        for e in state.items[d, : state.devices[d, COUNT]]:
            packing.add(int(d), int(problem.entry_item[e]), option)
    return packing
