"""Finds each model's best covering set of whole replicas at given prices of entries.

For a cost: the cheapest multiset of entries whose rates reach the need and whose number is within
its limits. For goodput: the multiset with the most weight * min(rate, need) - price. Both maximise
worth beyond the price; for a cost, only reaching the whole need is allowed, and is worth nothing.
Rates are counted in cells, rounded up, so cells cover at least what replicas cover: a cost found
here is never above the true one, and a worth never below.
"""

from typing import NamedTuple

import numpy as np

from partitiond.planner.kernels import kernel, plain
from partitiond.planner.model.sites import Floats, Ints

PROBE = 24
"""Number of entries from which a first set is made."""
ROUNDING = 1e-12
COUNTED_CELLS = 2_000_000
"""Largest table of (number, cells); beyond it the limits on the number are relaxed."""


class Grid(NamedTuple):
    """Entries by model, with their rates in cells.

    Attributes:
        start: (M + 1,) offsets of each model's entries in the arrays of entries.
        cell: (E,) rates of entries in cells, rounded up, at most what the model needs.
        flat: (M,) weighted requests/s of a replica of a model without a rate; 0 if such models do
            not count.
        cells: (M,) cells a model needs; 0 without a rate.
        least, most: (M,) limits on the number of replicas.
        reward: (M,) worth of one cell, in weighted requests/s.
    """

    start: Ints
    cell: Ints
    flat: Floats
    cells: Ints
    least: Ints
    most: Ints
    reward: Floats


class CoverWorth(NamedTuple):
    """The worth of a number of cells: `each` times the number, from `least` to `cells`."""

    least: int
    cells: int
    each: float


class Covers(NamedTuple):
    """One covering set per model.

    Attributes:
        value: (M,) its cost, or its worth less its price.
        start: (M + 1,) offsets of each model's part of `entries`.
        entries: chosen entries, with repetitions.
    """

    value: Floats
    start: Ints
    entries: Ints


def cheapest_covers(grid: Grid, price: Floats) -> Covers:
    """Return the cheapest covering set of each model; its cost is infinite if there is none.

    Args:
        grid: the entries.
        price: (E,) price of one replica of each entry, at least 0.
    """
    value, start, entries = _all_covers(grid, np.maximum(price, 0.0), True, 0)
    return Covers(0.0 - value, start, entries)


def best_served(grid: Grid, price: Floats, most_replicas: int) -> Covers:
    """Return each model's set with the most worth beyond its price; the empty set is worth 0.

    Least numbers of replicas are not required, because a plan for goodput may miss them.

    Args:
        grid: the entries.
        price: (E,) price of one replica of each entry, at least 0.
        most_replicas: number of replicas that all devices together can hold.
    """
    return Covers(*_all_covers(grid, np.maximum(price, 0.0), False, most_replicas))


@kernel
def _all_covers(
    grid: Grid, price: Floats, as_cost: bool, most_replicas: int
) -> tuple[Floats, Ints, Ints]:
    models = len(grid.cells)
    value = np.zeros(models)
    where = np.zeros(models + 1, np.int64)
    entries = np.empty(max(16, 4 * len(grid.cell)), np.int64)
    used = 0
    for m in range(models):
        first, last = grid.start[m], grid.start[m + 1]
        mine, cell, cells = price[first:last], grid.cell[first:last], grid.cells[m]
        if as_cost:
            worth = CoverWorth(cells, cells, 0.0)
            value[m], chosen = _best_set(mine, cell, worth, grid.least[m], grid.most[m])
        elif cells > 0:
            worth = CoverWorth(0, cells, grid.reward[m])
            value[m], chosen = _best_set(mine, cell, worth, 0, grid.most[m])
        else:
            most = min(grid.most[m], most_replicas)
            value[m], chosen = _serve_flat(mine, grid.flat[m], most)
        if used + len(chosen) > len(entries):
            larger = np.empty(2 * len(entries) + len(chosen), np.int64)
            larger[:used] = entries[:used]
            entries = larger
        entries[used : used + len(chosen)] = first + chosen
        used += len(chosen)
        where[m + 1] = used
    return value, where, entries[:used].copy()


@kernel
def _serve_flat(price: Floats, flat: float, most: int) -> tuple[float, Ints]:
    """Return worth and set for a model without a rate: every replica is worth the same."""
    if most < 1 or len(price) == 0 or price.min() >= flat:
        return 0.0, np.empty(0, np.int64)
    return most * (flat - price.min()), np.full(1, price.argmin(), np.int64)


@kernel
def _best_set(
    price: Floats, cell: Ints, worth: CoverWorth, least: int, most: int
) -> tuple[float, Ints]:
    """Return the set of `least` to `most` replicas with the most worth beyond its price; -inf if
    there is none.

    The value is never too low: if both limits bind, or need too large a table, one is dropped.

    Args:
        price: price of one replica of each entry.
        cell: cells that each replica reaches.
        worth: worth of reaching cells.
        least, most: limits on the number of replicas.
    """
    none, cells = np.empty(0, np.int64), worth.cells
    if least > most:
        return -np.inf, none
    few = _useful(price, cell, worth)
    cost, take = _table(price[few], cell[few], cells, 0, True)
    best, amount = _most(worth, cost[0])
    if best == -np.inf:
        return best, none
    chosen = few[_walk(take, cell[few], 0, amount)]
    if least <= len(chosen) <= most:
        return best, chosen
    more = len(chosen) < least
    number = least if more else most
    if len(price) == 0:
        return -np.inf, none
    if (number + 1) * (cells + 1) > COUNTED_CELLS:
        return (min(best, -least * price.min()) if more else best), chosen
    cost, take = _table(price, cell, cells, number, more)
    best, count = -np.inf, 0
    for n in range(number if more else 0, number + 1):
        value, at = _most(worth, cost[n])
        if value > best:
            best, amount, count = value, at, n
    if best == -np.inf:
        return best, none
    return best, _walk(take, cell, count, amount)


@plain
def _most(worth: CoverWorth, cost: Floats) -> tuple[float, int]:
    """Return the most worth beyond the cost over all numbers of cells, and the first such one."""
    best, amount = -np.inf, 0
    for c in range(worth.least, worth.cells + 1):
        if worth.each * c - cost[c] > best:
            best, amount = worth.each * c - cost[c], c
    return best, amount


@kernel
def _useful(price: Floats, cell: Ints, worth: CoverWorth) -> Ints:
    """Return the entries that some best set may hold, whatever its number of replicas.

    A few entries that waste least give a first set. Any set costs at least the least price per cell
    times all cells, plus what its entries cost beyond that price. So an entry that wastes more than
    the first set is in no better set.
    """
    unit, cells = np.inf, worth.cells
    for i in range(len(price)):
        if cell[i] > 0:
            unit = min(unit, price[i] / cell[i])
    if unit == np.inf:
        return np.arange(len(price))
    order = np.argsort(price - unit * cell)
    probe = _ample(price, cell, order[:PROBE])
    known, _ = _most(worth, _table(price[probe], cell[probe], cells, 0, True)[0][0])
    most = max((worth.each - unit) * worth.least, (worth.each - unit) * cells)
    slack = ROUNDING * (abs(known) + unit * cells)
    size = min(PROBE, len(price))
    for k in range(size, len(price)):
        i = order[k]
        if most - (price[i] - unit * cell[i]) >= known - slack:
            order[size] = i
            size += 1
    return _ample(price, cell, order[:size])


@kernel
def _ample(price: Floats, cell: Ints, entries: Ints) -> Ints:
    """Return the entries that cover more than every cheaper one, the cheapest first."""
    order = entries[np.argsort(price[entries])]
    size, top = 0, 0
    for i in order:
        if cell[i] > top and price[i] < np.inf:
            order[size] = i
            size += 1
            top = cell[i]
    return order[:size].copy()


@kernel
def _table(
    price: Floats, cell: Ints, cells: int, number: int, at_least: bool
) -> tuple[Floats, Ints]:
    """Return the least price of exactly (or at least) n replicas that reach so many cells, by n
    and cells, and the entry to take first."""
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
def _walk(take: Ints, cell: Ints, number: int, amount: int) -> Ints:
    chosen = np.empty(number + amount + 1, np.int64)
    size, n, left = 0, number, amount
    while n > 0 or left > 0:
        i = take[n, left]
        chosen[size] = i
        size += 1
        left = max(0, left - cell[i])
        n = max(0, n - 1)
    return chosen[:size].copy()
