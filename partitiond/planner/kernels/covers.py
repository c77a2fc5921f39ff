"""The best covering set of each model at prices of entries, over whole replicas.

For a cost: the cheapest multiset of entries whose rates reach the need and whose number is
within its limits. For goodput: the multiset with the most weight * min(rate, need) - price.
Rates are counted in cells, rounded up, so cells cover at least what replicas cover: a cost found
here is never above the true one, a worth never below.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from partitiond.planner.kernels import kernel
from partitiond.planner.sites import Floats, Ints

PROBE = 24
"""Entries from which a first set is made."""
ROUNDING = 1e-12
COUNTED_CELLS = 2_000_000
"""Largest table of (number, cells); beyond it the limits of the number are relaxed."""


class Grid(NamedTuple):
    """Entries by model, with their rates in cells.

    Attributes:
        start: (M + 1,) where a model's entries are in the arrays below.
        entry: entries, sorted by model.
        cell: their rates in cells, rounded up, at most what the model needs.
        flat: weighted requests/s of each entry without a rate to reach; 0 where these do not
            count.
        cells: (M,) cells a model needs; 0 without a rate.
        least, most: (M,) replicas.
        reward: (M,) worth of one cell, in weighted requests/s.
        full: (M,) weighted requests/s of the whole need.
    """

    start: Ints
    entry: Ints
    cell: Ints
    flat: Floats
    cells: Ints
    least: Ints
    most: Ints
    reward: Floats
    full: Floats


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Covers:
    """One covering set a model.

    Attributes:
        value: (M,) its cost, or its worth less its price.
        start: (M + 1,) where a model's part of `entries` is.
        entries: chosen entries, with repetitions.
    """

    value: Floats
    start: Ints
    entries: Ints


def cheapest_covers(grid: Grid, price: Floats) -> Covers:
    """The cheapest covering set of each model; infinite cost where there is none.

    Args:
        price: (E,) of one replica of each entry, at least 0.
    """
    return Covers(*_all_covers(grid, np.maximum(price, 0.0), True, 0))


def best_served(grid: Grid, price: Floats, most_replicas: int) -> Covers:
    """The set of each model with the most worth beyond its price; the empty set is worth 0.

    Least numbers of replicas are not asked for: a plan for goodput may miss them.

    Args:
        price: (E,) of one replica of each entry, at least 0.
        most_replicas: replicas all devices hold together.
    """
    return Covers(*_all_covers(grid, np.maximum(price, 0.0), False, most_replicas))


@kernel
def _all_covers(
    grid: Grid, price: Floats, as_cost: bool, most_replicas: int
) -> tuple[Floats, Ints, Ints]:
    models = len(grid.cells)
    value = np.zeros(models)
    where = np.zeros(models + 1, np.int64)
    entries = np.empty(max(16, 4 * len(grid.entry)), np.int64)
    used = 0
    for m in range(models):
        first, last = grid.start[m], grid.start[m + 1]
        mine = price[grid.entry[first:last]]
        if as_cost:
            worth, chosen = _cover(
                mine, grid.cell[first:last], grid.cells[m], grid.least[m], grid.most[m]
            )
        elif grid.cells[m] > 0:
            reward = (grid.reward[m], grid.full[m])
            worth, chosen = _serve(mine, grid.cell[first:last], grid.cells[m], reward, grid.most[m])
        else:
            most = min(grid.most[m], most_replicas)
            worth, chosen = _serve_flat(mine, grid.flat[first:last], most)
        value[m] = worth
        if used + len(chosen) > len(entries):
            larger = np.empty(2 * len(entries) + len(chosen), np.int64)
            larger[:used] = entries[:used]
            entries = larger
        for i in chosen:
            entries[used] = grid.entry[first + i]
            used += 1
        where[m + 1] = used
    return value, where, entries[:used].copy()


@kernel
def _serve_flat(price: Floats, flat: Floats, most: int) -> tuple[float, Ints]:
    """Every replica gives its rate, without end."""
    best = -1
    for i in range(len(price)):
        if best < 0 or flat[i] - price[i] > flat[best] - price[best]:
            best = i
    if best < 0 or flat[best] - price[best] <= 0.0 or most < 1:
        return 0.0, np.empty(0, np.int64)
    return most * (flat[best] - price[best]), np.full(1, best, np.int64)


@kernel
def _table(price: Floats, cell: Ints, cells: int) -> tuple[Floats, Ints]:
    """Least price to reach at least so many cells, and the entry to take first."""
    cost = np.full(cells + 1, np.inf)
    take = np.full(cells + 1, -1, np.int64)
    cost[0] = 0.0
    useful = np.empty(len(price), np.int64)
    size = 0
    order = np.argsort(price)
    top = 0
    for i in order:
        # Only what covers more than everything cheaper.
        if cell[i] > top and price[i] < np.inf:
            useful[size] = i
            size += 1
            top = cell[i]
    for amount in range(1, cells + 1):
        for k in range(size):
            i = useful[k]
            there = cost[max(0, amount - cell[i])] + price[i]
            if there < cost[amount]:
                cost[amount], take[amount] = there, i
    return cost, take


@kernel
def _useful(price: Floats, cell: Ints, cells: int, each: float, as_cost: bool) -> Ints:
    """Entries that some best set may hold, whatever its number.

    A few that waste least give a set. Any set costs at least the least price of a cell for all
    cells, and what its entries cost beyond that price; so entries that waste more than that set
    are in none that is better.

    Args:
        each: worth of a cell.
    """
    unit = np.inf
    for i in range(len(price)):
        if cell[i] > 0:
            unit = min(unit, price[i] / cell[i])
    if unit == np.inf:
        return np.arange(len(price))
    order = np.argsort(price - unit * cell)
    probe = order[:PROBE]
    cost, _ = _table(price[probe], cell[probe], cells)
    if as_cost:
        known = cost[cells]
    else:
        known = 0.0
        for c in range(1, cells + 1):
            known = max(known, each * c - cost[c])
    slack = ROUNDING * (abs(known) + unit * cells)
    size = len(probe)
    for k in range(len(probe), len(price)):
        i = order[k]
        waste = price[i] - unit * cell[i]
        if as_cost:
            good = unit * cells + waste <= known + slack
        elif each >= unit:
            good = (each - unit) * cells - waste >= known - slack
        else:
            good = each * cell[i] - price[i] >= known - slack
        if good:
            order[size] = i
            size += 1
    return order[:size].copy()


@kernel
def _walk(take: Ints, cell: Ints, amount: int) -> Ints:
    size, left = 0, amount
    while left > 0:
        size += 1
        left -= cell[take[left]]
    chosen = np.empty(size, np.int64)
    left = amount
    for k in range(size):
        chosen[k] = take[left]
        left -= cell[take[left]]
    return chosen


@kernel
def _serve(
    price: Floats, cell: Ints, cells: int, reward: tuple[float, float], most: int
) -> tuple[float, Ints]:
    """The most worth beyond the price, over all numbers of cells.

    Args:
        reward: worth of a cell, and of all that is needed.
    """
    each, full = reward
    few = _useful(price, cell, cells, each, False)
    cost, take = _table(price[few], cell[few], cells)
    best, amount = 0.0, 0
    for c in range(1, cells + 1):
        worth = min(full, each * c) - cost[c]
        if worth > best:
            best, amount = worth, c
    chosen = few[_walk(take, cell[few], amount)]
    if len(chosen) <= most:
        return best, chosen
    if (most + 1) * (cells + 1) > COUNTED_CELLS:
        return best, chosen
    cost2, take2 = _counted(price, cell, cells, most, False)
    best, amount, number = 0.0, 0, 0
    for n in range(most + 1):
        for c in range(cells + 1):
            worth = min(full, each * c) - cost2[n, c]
            if worth > best:
                best, amount, number = worth, c, n
    return best, _walk_counted(take2, cell, number, amount)


@kernel
def _cover(price: Floats, cell: Ints, cells: int, least: int, most: int) -> tuple[float, Ints]:
    """The cheapest set that reaches `cells` with a number from `least` to `most`."""
    none = np.empty(0, np.int64)
    if least <= 0 and cells <= 0:
        return 0.0, none
    if least > most or len(price) == 0:
        return np.inf, none
    few = _useful(price, cell, cells, 0.0, True)
    cost, take = _table(price[few], cell[few], cells)
    if cost[cells] == np.inf:
        return np.inf, none
    chosen = few[_walk(take, cell[few], cells)]
    if least <= len(chosen) <= most:
        return cost[cells], chosen
    if cells <= 0:
        cheapest = np.argmin(price)
        return least * price[cheapest], np.full(least, cheapest, np.int64)
    if len(chosen) < least:
        return _cover_at_least(price, cell, cells, least, chosen)
    return _cover_at_most(price, cell, cells, most, chosen)


@kernel
def _cover_at_least(
    price: Floats, cell: Ints, cells: int, least: int, chosen: Ints
) -> tuple[float, Ints]:
    """`chosen` is the cheapest set whatever its number. An upper limit that binds as well is
    left out, so the cost is then a bound."""
    if (least + 1) * (cells + 1) > COUNTED_CELLS:
        return max(price[chosen].sum(), least * price.min()), chosen
    cost, take = _counted(price, cell, cells, least, True)
    if cost[least, cells] == np.inf:
        return np.inf, chosen[:0]
    return cost[least, cells], _walk_counted(take, cell, least, cells)


@kernel
def _cover_at_most(
    price: Floats, cell: Ints, cells: int, most: int, chosen: Ints
) -> tuple[float, Ints]:
    """`chosen` is the cheapest set whatever its number, and larger than `most`, which binds.

    Any set that reaches `cells` and has at most so many is found; one with fewer than the least
    number can be filled up at a cost, which is left out.
    """
    if (most + 1) * (cells + 1) > COUNTED_CELLS:
        return price[chosen].sum(), chosen
    cost, take = _counted(price, cell, cells, most, False)
    best = 0
    for n in range(1, most + 1):
        if cost[n, cells] < cost[best, cells]:
            best = n
    if cost[best, cells] == np.inf:
        return np.inf, chosen[:0]
    return cost[best, cells], _walk_counted(take, cell, best, cells)


@kernel
def _counted(
    price: Floats, cell: Ints, cells: int, number: int, at_least: bool
) -> tuple[Floats, Ints]:
    """Least price of exactly n replicas (of at least n) that reach so many cells."""
    cost = np.full((number + 1, cells + 1), np.inf)
    take = np.full((number + 1, cells + 1), -1, np.int64)
    cost[0, 0] = 0.0
    if at_least:
        for amount in range(1, cells + 1):
            for i in range(len(price)):
                there = cost[0, max(0, amount - cell[i])] + price[i]
                if cell[i] > 0 and there < cost[0, amount]:
                    cost[0, amount], take[0, amount] = there, i
    for n in range(1, number + 1):
        for amount in range(cells + 1):
            for i in range(len(price)):
                there = cost[n - 1, max(0, amount - cell[i])] + price[i]
                if there < cost[n, amount]:
                    cost[n, amount], take[n, amount] = there, i
    return cost, take


@kernel
def _walk_counted(take: Ints, cell: Ints, number: int, amount: int) -> Ints:
    chosen = np.empty(number + amount + 1, np.int64)
    size, n, left = 0, number, amount
    while n > 0 or left > 0:
        i = take[n, left]
        chosen[size] = i
        size += 1
        left = max(0, left - cell[i])
        n = max(0, n - 1)
    return chosen[:size].copy()
