"""Runs rounds of the column generation: prices, the bounds they prove, and the sets they yield.

The restricted master matches sets of devices with covering sets of models, as a linear program:

    min   sum cost[p] x[p]                                   (or max sum worth[k] y[k])
    over  what is sold - what is bought + passed on >= 0     for each knot      -> price of it
          sum y[k] of a model = 1                            for each model
          sum x[p] of a class <= devices                     for each class
          share of a pool that x[p] take <= 1                for each pool      -> price of it

where x[p] counts devices that hold set p and y[k] is the share of covering set k in a model. A
replica between two knots is sold and bought as parts of both knots; a replica that serves more can
be passed on as one that serves less.

Every evaluation of prices is a valid bound. Prices are smoothed towards those of the best bound
(Wentges 1997), because the program's own prices jump about in early rounds.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from partitiond.planner.bounds.prices import round_up, usual_prices
from partitiond.planner.market.demand import Cover
from partitiond.planner.market.program import PatternProgram, Terms, duals
from partitiond.planner.market.value import Market, MarketPrices, Pattern, patterns_of
from partitiond.planner.model.sites import Floats, Ints, Sites
from partitiond.planner.pack.packing import Packing

CONVERGED: Final = 1e-6
"""Relative distance of the program's value to the bound at which nothing is left to gain."""
TRIFLE: Final = 1e-7
"""Smaller coefficients are left out: they only make the program numerically unsound."""
UNSERVED: Final = 100.0
"""Cost of an unserved model, in costs of its covering set at the first prices. Chosen."""
STEEPER: Final = 100.0
HOPELESS: Final = 1e12
"""Cost, in bounds, from which an unserved model counts as impossible to serve. Both are chosen."""


class Columns(PatternProgram):
    """The state of a column generation; each `run` continues where the previous one stopped.

    Args:
        sites: the instance as arrays; for a cost `with_survival`.
        as_cost: True to bound the cost, False to bound goodput.
        on_bound: called with each better bound.
        halt: called periodically; True ends the run with HaltedError.
    """

    def __init__(
        self,
        sites: Sites,
        *,
        as_cost: bool,
        on_bound: Callable[[float], None] = lambda _: None,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(Market(sites, as_cost=as_cost, halt=halt))
        self.as_cost, self._on_bound = as_cost, on_bound
        self.rounds = 0
        knot = self.market.demand.first_prices(usual_prices(sites))
        first = self.market.evaluate(MarketPrices(knot, np.zeros(self.market.classes.pools)))
        self.best, self._bound = first.prices, first.bound
        self._add_rows(first.covered)
        self.add_patterns(first.patterns)
        self._add_covers(first.covers)
        on_bound(self.bound())

    def _add_rows(self, cost: Floats) -> None:
        """Add rows of knots and models, with columns for unserved models and passed-on replicas.

        `cost` is the cost of covering each model.
        """
        add, demand = self._model.add_linear_constraint, self.market.demand
        covered = np.where(np.isfinite(cost), cost, 0.0)
        dearest = float(self.market.classes.cost.max(initial=0.0))
        penalty = UNSERVED * (covered + dearest) * self.as_cost
        self._knot = [add(lb=0.0) for _ in demand.knot_rate]
        self._need = [add(lb=1.0, ub=1.0) for _ in penalty]
        priced = zip(penalty.tolist(), self._need, strict=True)
        self._unserved = [self.column(cost, [(need, 1.0)]) for cost, need in priced]
        for first, end in zip(demand.knot_start[:-1], demand.knot_start[1:], strict=True):
            for k in range(int(first), int(end) - 1):
                self.column(0.0, [(self._knot[k + 1], -1.0), (self._knot[k], 1.0)])

    def bound(self) -> float:
        """Return the best bound so far; a bound on the cost is rounded up to a possible cost."""
        return round_up(self.market.sites, self._bound) if self.as_cost else self._bound

    def learn(self, packing: Packing) -> int:
        """Add the sets that a plan has on its devices; return how many are new."""
        return self.add_patterns(patterns_of(self.market, packing))

    def run(self, deadline: float, rounds: int) -> None:
        """Run rounds until nothing is gained, `deadline` (monotonic) or their number is reached."""
        self.converged = self.converged or math.isinf(self._bound)
        for result in self.optima(deadline, rounds):
            self.rounds += 1
            value, chosen = abs(result.objective_value()), result.variable_values()
            knot = np.maximum(0.0, duals(result, self._knot))
            prices = MarketPrices(knot, np.abs(duals(result, self._pool)))
            new = self.until_new(prices, deadline)
            gap = abs(value - self._bound)
            if math.isinf(self._bound):
                self.converged = True
            elif new and gap > CONVERGED * max(1.0, abs(self._bound)):
                continue
            elif self.as_cost and math.fsum(chosen.get(v, 0.0) for v in self._unserved) > CONVERGED:
                for variable in self._unserved:  # make leaving a model unserved more expensive
                    cost = self._model.objective.get_linear_coefficient(variable)
                    self._model.objective.set_linear_coefficient(variable, cost * STEEPER)
                self.converged = value > HOPELESS * max(1.0, self._bound)
            else:
                self.converged = True

    def evaluate(self, prices: MarketPrices) -> int:
        """Evaluate as in `PatternProgram`; report each better bound."""
        found = self.market.evaluate(prices)
        if found.bound > self._bound if self.as_cost else found.bound < self._bound:
            self.best, self._bound = found.prices, found.bound
            self._on_bound(self.bound())
        return self.add_patterns(found.patterns) + self._add_covers(found.covers)

    def _column_of(self, pattern: Pattern) -> tuple[float, Terms]:
        at, demand = (pattern.entries, pattern.level), self.market.demand
        sold = self._terms(demand.below[at], demand.part[at], np.ones(len(pattern.entries)))
        return self.market.cost_of(pattern) if self.as_cost else 0.0, sold

    def _add_covers(self, covers: Iterable[Cover]) -> int:
        new, demand = 0, self.market.demand
        for cover in covers:
            key = (cover.model, cover.offers.tobytes(), cover.amounts.tobytes())
            if key in self._seen or not len(cover.offers):
                continue
            self._seen.add(key)
            new += 1
            bought = demand.offer_below[cover.offers], demand.offer_part[cover.offers]
            terms = [(self._need[cover.model], 1.0), *self._terms(*bought, -cover.amounts)]
            self.column(0.0 if self.as_cost else -cover.worth, terms)
        return new

    def _terms(self, below: Ints, part: Floats, amount: Floats) -> Terms:
        """Split amounts of replicas between knots into parts of both knots."""
        total: dict[int, float] = {}
        for k, p, n in zip(below.tolist(), part.tolist(), amount.tolist(), strict=True):
            total[k] = total.get(k, 0.0) + n * (1 - p)
            if p:
                total[k + 1] = total.get(k + 1, 0.0) + n * p
        return [(self._knot[k], value) for k, value in total.items() if abs(value) > TRIFLE]
