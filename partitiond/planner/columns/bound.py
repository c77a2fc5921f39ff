"""Proves from prices what no plan exceeds.

For any prices that are not negative the goodput of a plan that has all least numbers is at most

    sum over models of max(0, worth of the demand - price of the demand)
    + sum over classes of devices * most valuable column at the prices
    + prices of all pools, and of the largest numbers of replicas
    - prices of the least numbers of replicas.

The value of a column is bounded by the pricing, whose search may be cut short. So neither the
linear program nor any search has to be optimal, and prices may be rounded freely.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from partitiond.planner.columns.fleet import ColumnProblem
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.columns.pricing import ReplicaPrices

NODES: Final = 200_000
STEPS: Final = 6
"""Limits on the branches of a pricing, and on its steps to better multipliers. Chosen."""
ROUNDING: Final = 1e-10
ROUNDING_OF_SUMS: Final = 1e-15
"""Relative error of a bound, and for each model of the sums that nearly cancel in it."""


def bound_at(
    fleet: ColumnProblem, duals: RowPrices, stop: Callable[[], bool], below: float = math.inf
) -> float | None:
    """Return an upper bound on weighted requests/s of plans that have all least numbers, if these
    have prices; None once it cannot be below `below`, or `stop` returned True."""
    largest = np.where(duals.most > 0, fleet.sites.need_max, 0)
    total = float(np.maximum(0.0, fleet.worth - duals.served).sum())
    total += float(duals.pool.sum()) + float((duals.most * largest).sum())
    total -= float((duals.least * fleet.least).sum())
    known = dict[tuple[int, tuple[float, float]], float]()
    for cls, held in enumerate(fleet.classes.site_class.tolist()):
        pools = fleet.pool_prices(duals.pool, cls)
        if (held, pools) not in known:
            least = (below - total) / max(1, int(fleet.classes.count[cls]))
            value = most_of(fleet, held, replica_prices(fleet, duals, pools), stop, least)
            if value is None:
                return None
            known[held, pools] = value
        total += int(fleet.classes.count[cls]) * known[held, pools]
    return safe_bound(fleet, duals, total)


def safe_bound(fleet: ColumnProblem, duals: RowPrices, bound: float) -> float:
    """Return a bound at prices with the most that floats may have lost of it."""
    largest = float(fleet.worth.sum() + duals.least @ fleet.least)
    return bound + ROUNDING * abs(bound) + ROUNDING_OF_SUMS * len(fleet.worth) * largest


def replica_prices(
    fleet: ColumnProblem, duals: RowPrices, pools: tuple[float, float]
) -> ReplicaPrices:
    """Return what replicas are worth before anything is planned."""
    open_part = np.where(fleet.worth > 0, 1.0, 0.0).tolist()
    lacks = np.where(duals.least > 0, fleet.least, 0).astype(np.float64).tolist()
    each = (duals.least - duals.most).tolist()
    return ReplicaPrices(duals.served.tolist(), each, open_part, lacks, *pools)


def most_of(
    fleet: ColumnProblem,
    held: int,
    prices: ReplicaPrices,
    stop: Callable[[], bool],
    below: float = math.inf,
) -> float | None:
    """Return an upper bound on the value of any column of a class of `Sites`; None once it is not
    below `below`, or `stop` returned True."""
    best = most = 0.0
    for way in sorted(fleet.ways[held], key=lambda way: -way.bound):
        if stop() or most >= below:
            return None
        upper = fleet.pricer.price(way.way, prices, best, best, STEPS, NODES)
        best, most = max(best, fleet.pricer.value), max(most, upper)
    return most
