"""The largest common factor of all demands, from prices of rates.

    max   t
    over  what sets on devices give a model / its target - t >= 0    for each model   -> price
          sum x[p] of a class <= devices                             for each class
          share of a pool that x[p] take <= 1                        for each pool    -> price of it

Models pay for each request/s alike, so no covering sets are needed: with prices that sum to 1, no
plan has a larger factor than all devices are worth together. That holds for any prices, whatever
the program's solver says. Whole replicas are counted on devices, not in models.
"""

import datetime
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.market.rounds import RETRIES, SMOOTHING
from partitiond.planner.market.value import Market, Pattern, Prices, patterns_of
from partitiond.planner.packing import Packing
from partitiond.planner.sites import Floats, Sites, usual_prices
from partitiond.planner.weighted import SAFETY

CONVERGED: Final = 1e-4
"""Relative distance of the program's value to the bound at which the rest is left."""


class Factor:
    """The state of the rounds; `run` goes on where the last one stopped.

    Args:
        sites: the instance with needs at a factor that no plan exceeds.
        target: rate of each model at factor 1, in 1 / its units; models without one do not count.
        halt: asked now and then whether to end; then HaltedError is raised.
    """

    def __init__(
        self,
        sites: Sites,
        target: Mapping[int, float],
        *,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        self.market = Market(sites, as_cost=True, halt=halt)
        self.target: Floats = np.array([target.get(n.model, 0.0) for n in sites.instance.needs])
        self.bound, self.converged = math.inf, False
        self.best: tuple[Floats, Floats] = (
            self._first_prices(),
            np.zeros(self.market.classes.pools),
        )
        self._make_program()
        self.evaluate(*self.best)

    def _first_prices(self) -> Floats:
        """(M,) what a model's cheapest request/s takes of devices, for all of its target."""
        sites = self.market.sites
        each = usual_prices(sites) / np.maximum(1, sites.rates[:, 0])
        least = np.full(len(self.target), np.inf)
        np.minimum.at(least, sites.entry_model, each)
        price = np.where(np.isfinite(least), least, 0.0) * self.target
        return np.asarray(price / max(1e-300, float(price.sum())))

    def evaluate(self, price: Floats, pool: Floats) -> int:
        """Keep the bound at some prices, and the sets that they show; how many are new.

        Args:
            price: (M,) for a target; not negative, not all 0.
            pool: (P,) of all of each merged pool; not negative.
        """
        # What nobody has to get pays for nothing.
        price = np.where(self.target > 0, price, 0.0)
        demand, whole = self.market.demand, math.fsum(price)
        if whole <= 0:
            return 0
        per_rate = np.divide(price, self.target, out=np.zeros_like(price), where=self.target > 0)
        model = np.repeat(np.arange(len(price)), np.diff(demand.knot_start))
        knot: Floats = np.asarray(per_rate[model] * demand.knot_rate, dtype=np.float64)
        patterns, value = self.market.patterns_at(Prices(knot, pool))
        worth = math.fsum([*(value * self.market.classes.count), *pool])
        bound = worth / whole * (1 + SAFETY)
        if bound < self.bound:
            self.bound, self.best = bound, (price, pool)
        return self.add(patterns)

    def learn(self, packing: Packing) -> int:
        """Take the sets that a plan has on its devices; how many are new."""
        return self.add(patterns_of(self.market, packing))

    def run(self, deadline: float, rounds: int) -> None:
        """Rounds until little is gained, `deadline` (monotonic) or their number."""
        for _ in range(rounds):
            left = deadline - time.monotonic()
            if left <= 0 or self.converged:
                return
            found = self._solve(left)
            if found is None:
                return
            value, price, pool = found
            new = self._separate(price, pool, deadline)
            self.converged = not new or self.bound - value <= CONVERGED * self.bound

    def _separate(self, price: Floats, pool: Floats, deadline: float) -> int:
        """Evaluate nearer and nearer to the program's own prices until sets are new."""
        share, new = SMOOTHING, 0
        for attempt in range(RETRIES + 1):
            share = 0.0 if attempt == RETRIES else share
            kept, kept_pool = self.best
            new = self.evaluate(
                share * kept / math.fsum(kept) + (1 - share) * price,
                share * kept_pool / math.fsum(kept) + (1 - share) * pool,
            )
            if new or time.monotonic() > deadline:
                break
            share *= 0.5
        return new

    def _make_program(self) -> None:
        self.patterns: list[Pattern] = []
        self._seen: set[object] = set()
        self._model = mathopt.Model()
        add, classes = self._model.add_linear_constraint, self.market.classes
        self._factor = self._model.add_variable(lb=0.0)
        self._model.maximize(self._factor)
        self._need = [add(lb=0.0) for _ in self.target]
        for row, target in zip(self._need, self.target, strict=True):
            if target > 0:
                row.set_coefficient(self._factor, -1.0)
        self._class = [add(ub=float(n)) for n in classes.count]
        self._pool = [add(ub=1.0) for _ in range(classes.pools)]
        self._solver = mathopt.IncrementalSolver(self._model, mathopt.SolverType.GLOP)

    def add(self, patterns: Iterable[Pattern]) -> int:
        """Add sets of devices; how many are new."""
        market, sites, before = self.market, self.market.sites, len(self.patterns)
        for pattern in patterns:
            if pattern.key in self._seen or not len(pattern.entries):
                continue
            self._seen.add(pattern.key)
            self.patterns.append(pattern)
            entries, variable = pattern.entries, self._model.add_variable(lb=0.0)
            self._class[pattern.cls].set_coefficient(variable, 1.0)
            model = sites.entry_model[entries]
            rate = np.minimum(sites.rates[entries, pattern.level], sites.need_rate[model])
            given = np.bincount(model, rate, len(self.target))
            for m in np.flatnonzero((given > 0) & (self.target > 0)).tolist():
                self._need[m].set_coefficient(variable, float(given[m] / self.target[m]))
            taken = sites.entry_pool[entries].sum(axis=0)
            for draw in market.classes.draws[pattern.cls]:
                share = float(taken[draw.column]) / draw.whole
                self._pool[draw.pool].set_coefficient(variable, share)
        return len(self.patterns) - before

    def _solve(self, seconds: float) -> tuple[float, Floats, Floats] | None:
        """Optimum over the sets so far, and its prices; None where it is not found in that time."""
        limit = datetime.timedelta(seconds=max(seconds, 0.01))
        parameters = mathopt.SolveParameters(presolve=mathopt.Emphasis.OFF, time_limit=limit)
        try:
            result = self._solver.solve(params=parameters)
        except (RuntimeError, ValueError, AttributeError):
            # GLOP gave up (and OR-Tools 9.15 fails to say so); prices are as they were.
            return None
        if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
            return None
        dual = result.dual_values()
        price = np.abs([dual[row] for row in self._need])
        pool = np.abs(np.array([dual[row] for row in self._pool], dtype=np.float64))
        whole = math.fsum(price)
        if whole <= 0:
            return None
        return result.objective_value(), np.asarray(price / whole), pool / whole
