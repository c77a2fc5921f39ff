"""Solves a growing linear program over sets of devices, each time from the previous basis."""

import datetime
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.market.value import Market, MarketPrices, Pattern
from partitiond.planner.model.sites import Floats

LONGEST_SECONDS: Final = 86_400.0
"""A day, if the deadline is infinite."""
SHARES: Final = (0.5, 0.25, 0.125, 0.0)
"""Shares of the best bound's prices in the evaluated prices, tried until columns are new."""

Terms = list[tuple[mathopt.LinearConstraint, float]]


class PatternProgram:
    """The linear program.

    Attributes:
        market: the market that the sets belong to.
        best: the prices of the best bound so far.
        patterns: the sets so far; none is ever removed.
        converged: True if no further set is worth a round.
    """

    best: MarketPrices

    def __init__(self, market: Market) -> None:
        self.market, self.converged = market, False
        self.patterns: list[Pattern] = []
        self._seen: set[object] = set()
        self._model = mathopt.Model()
        add = self._model.add_linear_constraint
        self._class = [add(ub=float(n)) for n in market.classes.count]
        self._pool = [add(ub=1.0) for _ in range(market.classes.pools)]
        self._begin()

    def _begin(self) -> None:
        self._solver = mathopt.IncrementalSolver(self._model, mathopt.SolverType.GLOP)

    def _column_of(self, pattern: Pattern) -> tuple[float, Terms]:
        """Return the cost of a set, and what it gives models."""
        raise NotImplementedError

    def column(self, cost: float, terms: Terms) -> mathopt.Variable:
        """Add a nonnegative variable."""
        variable = self._model.add_variable(lb=0.0)
        for row, coefficient in terms:
            row.set_coefficient(variable, coefficient)
        if cost:
            self._model.objective.set_linear_coefficient(variable, cost)
        return variable

    def add_patterns(self, patterns: Iterable[Pattern]) -> int:
        """Add sets of devices; return how many are new."""
        before = len(self.patterns)
        for pattern in patterns:
            if pattern.key in self._seen or not len(pattern.entries):
                continue
            self._seen.add(pattern.key)
            self.patterns.append(pattern)
            cost, terms = self._column_of(pattern)
            terms += [(self._pool[pool], share) for pool, share in self.market.drawn(pattern)]
            self.column(cost, [(self._class[pattern.cls], 1.0), *terms])
        return len(self.patterns) - before

    def evaluate(self, prices: MarketPrices) -> int:
        """Keep the bound at some prices, and the sets found; return how many columns are new."""
        raise NotImplementedError

    def until_new(self, prices: MarketPrices, deadline: float) -> int:
        """Evaluate prices ever nearer to the program's own until columns are new; return how many.

        Nothing is evaluated after the deadline, which is monotonic.
        """
        for share in SHARES:
            new = self.evaluate(self.best.between(prices, share))
            if new or time.monotonic() > deadline:
                return new
        return 0

    def optima(self, deadline: float, rounds: int) -> Iterator[mathopt.SolveResult]:
        """Yield the optimum over the current sets, until `converged`, `deadline` (monotonic), their
        number is reached, or none is found."""
        for _ in range(rounds):
            if self.converged or time.monotonic() >= deadline:
                return
            result = self._once(deadline)
            if result is None and time.monotonic() < deadline:
                # The basis may have become numerically unsound: solve once more without one.
                self._begin()
                result = self._once(deadline)
            if result is None:
                return
            yield result

    def _once(self, deadline: float) -> mathopt.SolveResult | None:
        # Presolve would discard the basis that makes the next solve short.
        left = max(0.01, deadline - time.monotonic())
        limit = datetime.timedelta(seconds=min(left, LONGEST_SECONDS))
        parameters = mathopt.SolveParameters(presolve=mathopt.Emphasis.OFF, time_limit=limit)
        # Reading results that include zeros costs as much as solving.
        wanted = mathopt.ModelSolveParameters(
            variable_values_filter=mathopt.SparseVectorFilter(skip_zero_values=True),
            dual_values_filter=mathopt.SparseVectorFilter(skip_zero_values=True),
            reduced_costs_filter=mathopt.SparseVectorFilter(filtered_items=[]),
        )
        try:
            result = self._solver.solve(params=parameters, model_params=wanted)
        except (RuntimeError, ValueError, AttributeError):
            return None  # GLOP gave up, and OR-Tools 9.15 fails to say so
        optimal = result.termination.reason is mathopt.TerminationReason.OPTIMAL
        return result if optimal else None


def duals(result: mathopt.SolveResult, rows: Sequence[mathopt.LinearConstraint]) -> Floats:
    """Return the prices of some rows; rows that were not read have price 0."""
    known = result.dual_values()
    return np.array([known.get(row, 0.0) for row in rows], dtype=np.float64)
