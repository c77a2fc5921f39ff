"""The bound that prices of slots give: covering sets against devices, both over whole replicas.

For any prices pi >= 0 of slots and q >= 0 of pools, a plan pays for each replica its price and
earns on each device what its replicas are worth; so

- cost >= sum over models of their cheapest covering set - sum over classes of
  count * max(0, most valuable set of one device - cost of one) - sum of q * pool capacity;
- goodput <= sum over models of the most worth of a set beyond its price + sum over classes of
  count * most valuable set of one device + sum of q * pool capacity,

where the value of a set on a device is the sum of pi less q times what it takes of pools. Both
sides are solved exactly, and where one is cut short its own bound is used.
"""

import dataclasses
import math
from typing import Final

import numpy as np

from partitiond.planner.arrays import Floats
from partitiond.planner.columns_rows import Rows
from partitiond.planner.kernels.covers import (
    Covers,
    Grid,
    best_served,
    cheapest_covers,
    make_grid,
)
from partitiond.planner.kernels.pricing import Pattern, best_pattern
from partitiond.planner.types import RATE_SCALE
from partitiond.planner.weighted import SAFETY, Worth, best_multiple, bound_at

NODE_LIMIT: Final = 500_000
"""Branches for one place; some milliseconds."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Of slots (S,) and of the merged pools (L',)."""

    slot: Floats
    pool: Floats

    def scaled(self, factor: float) -> "Prices":
        """All prices times a factor."""
        return Prices(self.slot * factor, self.pool * factor)

    def between(self, other: "Prices", share: float) -> "Prices":
        """`share` of these and the rest of `other`."""
        return Prices(
            share * self.slot + (1 - share) * other.slot,
            share * self.pool + (1 - share) * other.pool,
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What some prices show.

    Attributes:
        bound: no plan costs less (gives more). Infinite for a cost: not all can be served.
        prices: for which the bound holds; the ones asked for but for a common factor.
        covers: one set a model, at the prices asked for.
        patterns: the most valuable set of each class, over slots.
        value: (C,) upper bounds of their values.
    """

    bound: float
    prices: Prices
    covers: Covers
    patterns: tuple[Pattern, ...]
    value: Floats


class Evaluator:
    """Evaluates prices; counts how often."""

    def __init__(self, rows: Rows, as_cost: bool, node_limit: int = NODE_LIMIT) -> None:
        self.rows, self.as_cost, self.node_limit = rows, as_cost, node_limit
        self.grid: Grid = make_grid(rows.entries, RATE_SCALE)
        held = np.zeros(len(rows.cost), dtype=np.int64)
        np.maximum.at(held, rows.slots.place_group, rows.slots.max_items)
        self.most_replicas = int((held * rows.slots.group_count).sum())
        self.evaluations = 0

    def covers(self, prices: Prices) -> Covers:
        """The best set of each model."""
        rows = self.rows
        price = prices.slot[rows.slot_of]
        if self.as_cost:
            return cheapest_covers(self.grid, price + rows.entry_cost)
        return best_served(self.grid, price, self.most_replicas)

    def slot_values(self, prices: Prices) -> Floats:
        """What each slot is worth on a device: its price less what it takes of pools."""
        return np.asarray(prices.slot - self.rows.slots.entry_pool @ prices.pool)

    def patterns(self, prices: Prices) -> tuple[tuple[Pattern, ...], Floats]:
        """The most valuable set of each class, and bounds of the values."""
        slots = self.rows.slots
        value = self.slot_values(prices)
        best: list[Pattern | None] = [None] * len(self.rows.cost)
        most = np.zeros(len(self.rows.cost))
        for place, c in enumerate(slots.place_group):
            found = best_pattern(slots, place, value, self.rows.most, node_limit=self.node_limit)
            most[c] = max(most[c], found.bound)
            there = best[c]
            if there is None or found.value > there.value:
                best[c] = found
        return tuple(p for p in best if p is not None and len(p.entries)), most

    def evaluate(self, prices: Prices) -> Evaluation:
        """The bound at these prices; for a cost at the best multiple of them."""
        self.evaluations += 1
        covers = self.covers(prices)
        patterns, value = self.patterns(prices)
        slots = self.rows.slots
        pools = float(prices.pool @ slots.pool_capacity) if len(prices.pool) else 0.0
        if not self.as_cost:
            parts = [*covers.value, *(value * slots.group_count), pools]
            bound = math.fsum(parts)
            return Evaluation(bound + SAFETY * abs(bound), prices, covers, patterns, value)
        if np.isinf(covers.value).any():
            return Evaluation(math.inf, prices, covers, patterns, value)
        worth = Worth(value, self.rows.cost, slots.group_count, pools)
        factor, bound = self._best_multiple(prices, math.fsum(covers.value), worth)
        scaled = prices if factor == 1.0 else prices.scaled(factor)
        return Evaluation(bound, scaled, covers, patterns, value)

    def _price_alone(self, prices: Prices) -> float:
        """The least that covering sets cost at the prices, whatever entries cost beyond them."""
        return math.fsum(cheapest_covers(self.grid, prices.slot[self.rows.slot_of]).value)

    def _best_multiple(self, prices: Prices, covered: float, worth: Worth) -> tuple[float, float]:
        """The factor t for which t * prices gives the best bound, and that bound."""
        if not self.rows.entry_cost.any():
            return best_multiple(covered, worth)
        if worth.exceeded(self._price_alone(prices)):
            return 1.0, math.inf
        # With costs of entries the sets change with t: try the breaks below 1, each exactly.
        found = (1.0, bound_at(1.0, covered, worth))
        pairs = zip(worth.cost, worth.value, strict=True)
        for t in sorted(float(k / v) for k, v in pairs if 0 < k < v)[-2:]:
            again = math.fsum(self.covers(prices.scaled(t)).value)
            found = max(found, (t, bound_at(t, again, worth)), key=lambda pair: pair[1])
        return found
