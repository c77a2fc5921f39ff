"""The restricted master: sets of devices against covering sets of models, as one linear program.

    min   sum cost[c] x[p] + sum entry cost[k] y[k]          (or max sum worth[k] y[k])
    over  slots held - slots taken + exchange >= 0           for each slot      -> price pi
          sum y[k] of a model = 1                            for each model
          sum x[p] of a class <= devices                     for each class
          what x[p] take of a pool <= its capacity           for each pool      -> price q

where x[p] counts devices that hold set p and y[k] is the share of covering set k in a model.
It is solved again after columns are added, from the basis it had.
"""

import dataclasses
import datetime
import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.arrays import Floats
from partitiond.planner.columns_rows import Rows
from partitiond.planner.columns_value import Evaluation, Prices
from partitiond.planner.kernels.covers import Covers
from partitiond.planner.kernels.pricing import Pattern
from partitiond.planner.types import RATE_SCALE

UNSERVED: Final = 100.0
"""Cost of leaving a model unserved, in costs of its covering set at the first prices."""
LONGEST_SECONDS: Final = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A column: a set of slots on one device of a class. `rows` and `counts` are its slots."""

    cls: int
    place: int
    rows: tuple[int, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """A column: a covering set of a model, as entries with repetitions."""

    model: int
    entries: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The optimum over the columns so far. Weights are in step with the columns.

    Attributes:
        value: cost or weighted requests/s.
        unserved: sum over models of the share that no covering set serves.
        exchange: (A,) slots that hold one of a smaller slot, in step with `Rows.exchange`.
    """

    value: float
    unserved: float
    prices: Prices
    devices: Floats
    covers: Floats
    exchange: Floats


class Master:
    """The linear program; columns are added, never taken away."""

    def __init__(self, rows: Rows, as_cost: bool, penalty: Floats) -> None:
        self.rows, self.as_cost = rows, as_cost
        self.devices: list[Device] = []
        self.covers: list[Cover] = []
        self._seen: set[object] = set()
        self._model = mathopt.Model()
        self._device_vars: list[mathopt.Variable] = []
        self._cover_vars: list[mathopt.Variable] = []
        self._held: list[mathopt.Variable] = []
        add = self._model.add_linear_constraint
        self._slot = [add(lb=0.0) for _ in range(len(rows.most))]
        self._need = [add(lb=1.0, ub=1.0) for _ in range(len(penalty))]
        self._class = [add(ub=float(n)) for n in rows.slots.group_count]
        self._pool = [add(ub=float(c)) for c in rows.slots.pool_capacity]
        self._unserved = [self._column(p if as_cost else 0.0, []) for p in penalty]
        for need, variable in zip(self._need, self._unserved, strict=True):
            need.set_coefficient(variable, 1.0)
        self._exchange = [
            self._column(0.0, [(self._slot[larger], -1.0), (self._slot[smaller], 1.0)])
            for larger, smaller in rows.exchange
        ]
        self._solver = mathopt.IncrementalSolver(self._model, mathopt.SolverType.GLOP)

    def _column(
        self, cost: float, terms: Iterable[tuple[mathopt.LinearConstraint, float]]
    ) -> mathopt.Variable:
        variable = self._model.add_variable(lb=0.0)
        for row, coefficient in terms:
            row.set_coefficient(variable, coefficient)
        if cost:
            self._model.objective.set_linear_coefficient(variable, cost)
        return variable

    def add(self, found: Evaluation) -> int:
        """Add what an evaluation found; how many columns are new."""
        return self.add_patterns(found.patterns) + self.add_covers(found.covers)

    def add_patterns(self, patterns: Iterable[Pattern]) -> int:
        """Add sets of devices; how many are new."""
        before = len(self.devices)
        slots = self.rows.slots
        for pattern in patterns:
            key = (pattern.place, pattern.entries.tobytes(), pattern.counts.tobytes())
            if key in self._seen or not len(pattern.entries):
                continue
            self._seen.add(key)
            cls = int(slots.place_group[pattern.place])
            terms = [(self._class[cls], 1.0)]
            terms += [
                (self._slot[s], float(n))
                for s, n in zip(pattern.entries, pattern.counts, strict=True)
            ]
            taken = pattern.counts @ slots.entry_pool[pattern.entries]
            terms += [(self._pool[p], float(t)) for p, t in enumerate(taken) if t]
            cost = float(self.rows.cost[cls]) if self.as_cost else 0.0
            self._device_vars.append(self._column(cost, terms))
            entries, counts = pattern.entries.tolist(), pattern.counts.tolist()
            self.devices.append(Device(cls, pattern.place, tuple(entries), tuple(counts)))
        return len(self.devices) - before

    def add_covers(self, covers: Covers) -> int:
        """Add one covering set a model; how many are new."""
        before = len(self.covers)
        for model in range(len(self._need)):
            entries = covers.entries[covers.start[model] : covers.start[model + 1]]
            self._add_cover(model, tuple(sorted(entries.tolist())))
        return len(self.covers) - before

    def _add_cover(self, model: int, entries: tuple[int, ...]) -> None:
        if not entries or entries in self._seen:
            return
        self._seen.add(entries)
        slots: dict[int, int] = {}
        for entry in entries:
            slot = int(self.rows.slot_of[entry])
            slots[slot] = slots.get(slot, 0) + 1
        terms = [(self._need[model], 1.0)]
        terms += [(self._slot[s], -float(n)) for s, n in slots.items()]
        self._cover_vars.append(self._column(self._worth(model, entries), terms))
        self.covers.append(Cover(model, entries))

    def _worth(self, model: int, entries: tuple[int, ...]) -> float:
        """Its coefficient: a cost, or weighted requests/s as a negative one."""
        chosen = np.array(entries, dtype=np.int64)
        if self.as_cost:
            return float(self.rows.entry_cost[chosen].sum())
        problem = self.rows.entries
        rate = float(problem.entry_rate[chosen].sum())
        if problem.need_rated.any():
            rate = min(rate, float(problem.need_rate[model]))
        return -float(problem.need_weight[model]) * rate / RATE_SCALE

    def solve(self, seconds: float) -> Solution | None:
        """Optimum over the columns so far; None where the time does not suffice."""
        # Presolve would throw away the basis that makes the next solve short.
        limit = datetime.timedelta(seconds=min(max(seconds, 0.01), LONGEST_SECONDS))
        parameters = mathopt.SolveParameters(presolve=mathopt.Emphasis.OFF, time_limit=limit)
        # Reading results costs as much as solving where zeros are read as well.
        wanted = mathopt.ModelSolveParameters(
            variable_values_filter=mathopt.SparseVectorFilter(skip_zero_values=True),
            dual_values_filter=mathopt.SparseVectorFilter(skip_zero_values=True),
            reduced_costs_filter=mathopt.SparseVectorFilter(filtered_items=[]),
        )
        result = self._solver.solve(params=parameters, model_params=wanted)
        if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
            return None
        value, dual = result.variable_values(), result.dual_values()
        sign = 1.0 if self.as_cost else -1.0
        return Solution(
            value=sign * result.objective_value(),
            unserved=math.fsum(value.get(v, 0.0) for v in self._unserved),
            prices=Prices(
                np.maximum(0.0, [dual.get(row, 0.0) for row in self._slot]),
                np.abs([dual.get(row, 0.0) for row in self._pool]),
            ),
            devices=np.array([value.get(v, 0.0) for v in self._device_vars]),
            covers=np.array([value.get(v, 0.0) for v in self._cover_vars]),
            exchange=np.array([value.get(v, 0.0) for v in self._exchange]),
        )

    def hold_devices(self, column: int, least: float, most: float = math.inf) -> None:
        """Limit the number of devices that hold a set."""
        self._limit(self._device_vars[column], least, most)

    def hold_cover(self, column: int, least: float, most: float = math.inf) -> None:
        """Limit the share of a covering set in its model."""
        self._limit(self._cover_vars[column], least, most)

    def _limit(self, variable: mathopt.Variable, least: float, most: float) -> None:
        variable.lower_bound, variable.upper_bound = least, most
        self._held.append(variable)

    def free(self) -> None:
        """Take back all limits."""
        for variable in self._held:
            variable.lower_bound, variable.upper_bound = 0.0, math.inf
        self._held.clear()

    def raise_penalty(self, factor: float) -> None:
        """Make it dearer to leave models unserved."""
        for variable in self._unserved:
            old = self._model.objective.get_linear_coefficient(variable)
            self._model.objective.set_linear_coefficient(variable, old * factor)
