"""The restricted master: sets of devices against covering sets of models, as one linear program.

    min   sum cost[p] x[p]                                   (or max sum worth[k] y[k])
    over  what is sold - what is bought + passed on >= 0     for each knot      -> price of it
          sum y[k] of a model = 1                            for each model
          sum x[p] of a class <= devices                     for each class
          share of a pool that x[p] take <= 1                for each pool      -> price of it

where x[p] counts devices that hold set p and y[k] is the share of covering set k in a model. A
replica between two knots is sold and bought as parts of both; what serves more can be passed on as
what serves less. It is solved again after columns are added, from the basis it had.
"""

import dataclasses
import datetime
import math
import time
from collections.abc import Iterable
from typing import Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.market.demand import Cover
from partitiond.planner.market.value import Evaluation, Market, Pattern, Prices
from partitiond.planner.sites import Floats, Ints

LONGEST_SECONDS: Final = 86_400.0
TRIFLE: Final = 1e-7
"""Smaller coefficients are left out: they only make the program unsound."""

Terms = list[tuple[mathopt.LinearConstraint, float]]


class Sets:
    """A program over sets of devices that grows, and is solved from the basis it had.

    Attributes:
        market: what the sets are of.
        patterns: the sets so far; none is ever taken away.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self.patterns: list[Pattern] = []
        self._seen: set[object] = set()
        self._model = mathopt.Model()
        add = self._model.add_linear_constraint
        self._class = [add(ub=float(n)) for n in market.classes.count]
        self._pool = [add(ub=1.0) for _ in range(market.classes.pools)]
        self._begin()

    def _begin(self) -> None:
        self._solver = mathopt.IncrementalSolver(self._model, mathopt.SolverType.GLOP)

    def _terms_of(self, pattern: Pattern) -> Terms:
        """What a set gives models."""
        raise NotImplementedError

    def column(self, cost: float, terms: Terms) -> mathopt.Variable:
        """Add a variable of at least 0."""
        variable = self._model.add_variable(lb=0.0)
        for row, coefficient in terms:
            row.set_coefficient(variable, coefficient)
        if cost:
            self._model.objective.set_linear_coefficient(variable, cost)
        return variable

    def add_patterns(self, patterns: Iterable[Pattern]) -> int:
        """Add sets of devices; how many are new."""
        before = len(self.patterns)
        for pattern in patterns:
            if pattern.key in self._seen or not len(pattern.entries):
                continue
            self._seen.add(pattern.key)
            self.patterns.append(pattern)
            drawn = self.market.drawn(pattern)
            terms = [(self._class[pattern.cls], 1.0), *self._terms_of(pattern)]
            terms += [(self._pool[number], share) for number, share in drawn]
            self.column(self._cost_of(pattern), terms)
        return len(self.patterns) - before

    def _cost_of(self, pattern: Pattern) -> float:  # noqa: ARG002 - of programs that have one
        return 0.0

    def optimum(self, seconds: float) -> mathopt.SolveResult | None:
        """The optimum; None where it is not found in that time."""
        until = time.monotonic() + seconds
        found = self._once(seconds)
        if found is None and time.monotonic() < until:
            # The basis may have become unsound: once more without one.
            self._begin()
            found = self._once(until - time.monotonic())
        return found

    def _once(self, seconds: float) -> mathopt.SolveResult | None:
        # Presolve would throw away the basis that makes the next solve short.
        limit = datetime.timedelta(seconds=min(max(seconds, 0.01), LONGEST_SECONDS))
        parameters = mathopt.SolveParameters(presolve=mathopt.Emphasis.OFF, time_limit=limit)
        # Reading results costs as much as solving where zeros are read as well.
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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The optimum over the columns so far.

    Attributes:
        value: cost or weighted requests/s.
        unserved: sum over models of the share that no covering set serves.
    """

    value: float
    unserved: float
    prices: Prices


class Program(Sets):
    """The linear program.

    Args:
        market: what is sold and bought.
        penalty: (M,) what it costs to leave each model unserved, at first.
    """

    def __init__(self, market: Market, penalty: Floats) -> None:
        super().__init__(market)
        add, demand = self._model.add_linear_constraint, market.demand
        self._knot = [add(lb=0.0) for _ in demand.knot_rate]
        self._need = [add(lb=1.0, ub=1.0) for _ in penalty]
        self._unserved = [
            self.column(cost if market.as_cost else 0.0, [(need, 1.0)])
            for cost, need in zip(penalty, self._need, strict=True)
        ]
        for first, end in zip(demand.knot_start[:-1], demand.knot_start[1:], strict=True):
            for k in range(int(first), int(end) - 1):
                self.column(0.0, [(self._knot[k + 1], -1.0), (self._knot[k], 1.0)])

    def add(self, found: Evaluation) -> int:
        """Add what an evaluation found; how many columns are new."""
        return self.add_patterns(found.patterns) + self._add_covers(found.covers)

    def _terms_of(self, pattern: Pattern) -> Terms:
        at, demand = (pattern.entries, pattern.level), self.market.demand
        return self._terms(demand.below[at], demand.part[at], np.ones(len(pattern.entries)))

    def _cost_of(self, pattern: Pattern) -> float:
        return self.market.cost_of(pattern) if self.market.as_cost else 0.0

    def _add_covers(self, covers: Iterable[Cover]) -> int:
        new, demand = 0, self.market.demand
        for cover in covers:
            key = (cover.model, cover.offers.tobytes(), cover.amounts.tobytes())
            if key in self._seen or not len(cover.offers):
                continue
            self._seen.add(key)
            new += 1
            bought = demand.offer_below[cover.offers], demand.offer_part[cover.offers]
            terms = [(self._need[cover.model], 1.0)]
            terms += self._terms(*bought, -cover.amounts)
            self.column(0.0 if self.market.as_cost else -cover.worth, terms)
        return new

    def _terms(self, below: Ints, part: Floats, amount: Floats) -> Terms:
        """Amounts of replicas between knots, as parts of both."""
        total: dict[int, float] = {}
        for k, p, n in zip(below.tolist(), part.tolist(), amount.tolist(), strict=True):
            total[k] = total.get(k, 0.0) + n * (1 - p)
            if p:
                total[k + 1] = total.get(k + 1, 0.0) + n * p
        return [(self._knot[k], value) for k, value in total.items() if abs(value) > TRIFLE]

    def solve(self, seconds: float) -> Solution | None:
        """Optimum over the columns so far; None where it is not found in that time."""
        result = self.optimum(seconds)
        if result is None:
            return None
        value, dual = result.variable_values(), result.dual_values()
        sign = 1.0 if self.market.as_cost else -1.0
        return Solution(
            value=sign * result.objective_value(),
            unserved=math.fsum(value.get(v, 0.0) for v in self._unserved),
            prices=Prices(
                np.maximum(0.0, [dual.get(row, 0.0) for row in self._knot]),
                np.abs(np.array([dual.get(row, 0.0) for row in self._pool], dtype=np.float64)),
            ),
        )

    def raise_penalty(self, factor: float) -> None:
        """Make it dearer to leave models unserved."""
        for variable in self._unserved:
            old = self._model.objective.get_linear_coefficient(variable)
            self._model.objective.set_linear_coefficient(variable, old * factor)
