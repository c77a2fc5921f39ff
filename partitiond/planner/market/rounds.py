"""Rounds of the column generation: prices, what they prove, and sets that they show.

Every evaluation of prices is a valid bound. Prices are smoothed towards those of the best bound
(Wentges 1997): the program's own jump about in early rounds.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from partitiond.planner.market.program import Program
from partitiond.planner.market.value import Market, Prices, patterns_of
from partitiond.planner.packing import Packing
from partitiond.planner.prices import round_up, usual_prices
from partitiond.planner.sites import Sites

SHARES: Final = (0.5, 0.25, 0.125, 0.0)
"""Shares of the best bound's prices in those that are evaluated, until columns are new."""
CONVERGED: Final = 1e-6
"""Relative distance of the program's value to the bound at which nothing is left to gain."""
UNSERVED: Final = 100.0
"""Cost of leaving a model unserved, in costs of its covering set at the first prices."""
STEEPER: Final = 100.0
HOPELESS: Final = 1e12
"""Cost, in bounds, at which a model that is still unserved cannot be served."""


class Columns:
    """The state of a column generation; `run` goes on where the last one stopped.

    Args:
        sites: the instance as arrays; for a cost `with_survival`.
        as_cost: what is bounded.
        on_bound: told each better bound.
        halt: asked now and then whether to end; then HaltedError is raised.
    """

    def __init__(
        self,
        sites: Sites,
        *,
        as_cost: bool,
        on_bound: Callable[[float], None] = lambda _: None,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        self.market = Market(sites, as_cost=as_cost, halt=halt)
        self.as_cost, self._on_bound = as_cost, on_bound
        self.rounds, self.converged = 0, False
        knot = self.market.demand.first_prices(usual_prices(sites))
        self.best = self.market.evaluate(Prices(knot, np.zeros(self.market.classes.pools)))
        covered = np.where(np.isfinite(self.best.covered), self.best.covered, 0.0)
        dearest = float(self.market.classes.cost.max(initial=0.0))
        self.program = Program(self.market, UNSERVED * (covered + dearest))
        self.program.add(self.best)
        on_bound(self.bound())

    def bound(self) -> float:
        """The best bound so far; of a cost rounded to what a plan can cost."""
        bound = self.best.bound
        return round_up(self.market.sites, bound) if self.as_cost else bound

    def learn(self, packing: Packing) -> int:
        """Take the sets that a plan has on its devices; how many are new."""
        return self.program.add_patterns(patterns_of(self.market, packing))

    def run(self, deadline: float, rounds: int) -> None:
        """Rounds until nothing is gained, `deadline` (monotonic) or their number."""
        self.converged = self.converged or math.isinf(self.best.bound)
        for _ in range(rounds):
            left = deadline - time.monotonic()
            if left <= 0 or self.converged:
                return
            solution = self.program.solve(left)
            if solution is None:
                return
            self.rounds += 1
            new = until_new(partial(self._evaluate, solution.prices), deadline)
            gap = abs(solution.value - self.best.bound)
            if math.isinf(self.best.bound):
                self.converged = True
            elif new and gap > CONVERGED * max(1.0, abs(self.best.bound)):
                continue
            elif self.as_cost and solution.unserved > CONVERGED:
                self.program.raise_penalty(STEEPER)
                self.converged = solution.value > HOPELESS * max(1.0, self.best.bound)
            else:
                self.converged = True

    def _evaluate(self, prices: Prices, share: float) -> int:
        """Evaluate prices that are smoothed so much; how many columns are new."""
        found = self.market.evaluate(self.best.prices.between(prices, share))
        better = found.bound > self.best.bound if self.as_cost else found.bound < self.best.bound
        if better:
            self.best = found
            self._on_bound(self.bound())
        return self.program.add(found)


def until_new(evaluate: Callable[[float], int], deadline: float) -> int:
    """Evaluate nearer and nearer to the program's own prices until columns are new.

    Args:
        evaluate: takes the share of the best bound's prices, and gives the number of new columns.
        deadline: monotonic; nothing more is evaluated beyond it.
    """
    for share in SHARES:
        new = evaluate(share)
        if new or time.monotonic() > deadline:
            return new
    return 0
