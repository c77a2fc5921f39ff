"""Bounds the largest common factor of all demands, by prices of rates.

    max   t
    over  what sets on devices give a model / its target - t >= 0    for each model   -> price
          sum x[p] of a class <= devices                             for each class
          share of a pool that x[p] take <= 1                        for each pool    -> price of it

Models pay the same for each request/s, so no covering sets are needed: with prices that sum to 1,
no plan has a larger factor than the worth of all devices together. That holds for any prices, even
if the solver's are inexact. Replicas are whole on devices, but not in models.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from partitiond.planner.bounds.prices import SAFETY, usual_prices
from partitiond.planner.market.program import PatternProgram, Terms, duals
from partitiond.planner.market.value import Market, MarketPrices, Pattern
from partitiond.planner.model.sites import Floats, Sites

CONVERGED: Final = 1e-4
"""Relative distance of the program's value to the bound at which the rounds end. Chosen."""


class Factor(PatternProgram):
    """The state of the rounds; each `run` continues where the previous one stopped.

    Args:
        sites: the instance with needs at a factor that no plan exceeds.
        target: rate of each model at factor 1, in 1 / its units; models without one do not count.
        halt: called periodically; True ends the run with HaltedError.
    """

    def __init__(
        self,
        sites: Sites,
        target: Mapping[int, float],
        *,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(Market(sites, as_cost=True, halt=halt))
        self.target: Floats = np.array([target.get(n.model, 0.0) for n in sites.instance.needs])
        self.bound = math.inf
        self.best = MarketPrices(self._first_prices(), np.zeros(self.market.classes.pools))
        self._need = [self._model.add_linear_constraint(lb=0.0) for _ in self.target]
        counted = zip(self._need, self.target, strict=True)
        self.column(-1.0, [(row, -1.0) for row, target in counted if target > 0])
        self.evaluate(self.best)

    def _first_prices(self) -> Floats:
        """Return (M,) what a model's cheapest request/s takes of devices, times its target."""
        sites = self.market.sites
        each = usual_prices(sites) / np.maximum(1, sites.rates[:, 0])
        least = np.full(len(self.target), np.inf)
        np.minimum.at(least, sites.entry_model, each)
        price = np.where(np.isfinite(least), least, 0.0) * self.target
        return np.asarray(price / max(1e-300, float(price.sum())))

    def evaluate(self, prices: MarketPrices) -> int:
        """Evaluate as in `PatternProgram`, at nonnegative prices for targets."""
        # A model without a target pays nothing.
        price = np.where(self.target > 0, prices.rate, 0.0)
        demand, whole = self.market.demand, math.fsum(price)
        if whole <= 0:
            return 0
        per_rate = np.divide(price, self.target, out=np.zeros_like(price), where=self.target > 0)
        model = np.repeat(np.arange(len(price)), np.diff(demand.knot_start))
        knot: Floats = np.asarray(per_rate[model] * demand.knot_rate, dtype=np.float64)
        patterns, value = self.market.patterns_at(MarketPrices(knot, prices.pool))
        worth = math.fsum([*(value * self.market.classes.count), *prices.pool])
        bound = worth / whole * (1 + SAFETY)
        if bound < self.bound:
            self.bound, self.best = bound, MarketPrices(price / whole, prices.pool / whole)
        return self.add_patterns(patterns)

    def run(self, deadline: float, rounds: int) -> None:
        """Run rounds until little is gained, `deadline` (monotonic) or their number is reached."""
        for result in self.optima(deadline, rounds):
            price, pool = np.abs(duals(result, self._need)), np.abs(duals(result, self._pool))
            whole = math.fsum(price)
            if whole <= 0:
                return
            new = self.until_new(MarketPrices(price / whole, pool / whole), deadline)
            value = -result.objective_value()
            self.converged = not new or self.bound - value <= CONVERGED * self.bound

    def _column_of(self, pattern: Pattern) -> tuple[float, Terms]:
        sites, entries = self.market.sites, pattern.entries
        model = sites.entry_model[entries]
        rate = np.minimum(sites.rates[entries, pattern.level], sites.need_rate[model])
        given = np.bincount(model, rate, len(self.target))
        counted = np.flatnonzero((given > 0) & (self.target > 0)).tolist()
        return 0.0, [(self._need[m], float(given[m] / self.target[m])) for m in counted]
