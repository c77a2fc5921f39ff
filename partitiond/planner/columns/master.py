"""A linear program over columns, whose duals are the prices at which columns are sought.

    max   sum worth[k] s[k] - penalty * (missing replicas)
    over  s[k] <= what columns serve of model k               -> price of all of its open demand
          columns of a class <= its free devices              -> price of a device
          share of a pool that columns take <= its free part  -> price of the pool
          replicas of k + missing ones >= its least number    -> price of a replica
          replicas of k <= its largest number                 -> price of a replica

Prices are the mean of the last ones and the new duals, which oscillate. A round adds the best
column of every way that pays nearly as much as the best way, and a few more beside the best column,
for the next devices.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from ortools.linear_solver import pywraplp

from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, PricedWay, Rest
from partitiond.planner.columns.pricing import ReplicaPrices
from partitiond.planner.model.sites import Floats, Ints

WITHOUT_PRESOLVE: Final = pywraplp.MPSolverParameters()
WITHOUT_PRESOLVE.SetIntegerParam(WITHOUT_PRESOLVE.PRESOLVE, WITHOUT_PRESOLVE.PRESOLVE_OFF)
LEAST_GAIN: Final = 1e-6
"""Least relative gain of a column that is worth adding."""
NEARLY: Final = 0.4
"""A column is kept if it gains this part of what the best column gains. Chosen."""
FAR: Final = 0.75
"""A way whose last bound is below this part of what a column has to be worth waits for a thorough
round. Chosen."""
THOROUGH: Final = 8
"""Every so many rounds all ways are priced."""
BESIDE: Final = 3
"""Columns for the next devices beside the best one."""
PROMISING: Final = 64
"""Models that may be in a column. With all 1,000 a round took five times as long."""
NODES: Final = 2_000
NODES_BESIDE: Final = 500
STEPS: Final = 4
"""Limits on the branches of a pricing, and on its steps to better multipliers. All were chosen with
the instances of `bench.planner`."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class RowPrices:
    """Prices of what models and devices have; none below 0.

    Attributes:
        served: (M,) of all of a model's open demand.
        least, most: (M,) of a replica towards the least number, and of one of the largest number.
        device: (C,) of a device.
        pool: (P,) of all of a pool.
    """

    served: Floats
    least: Floats
    most: Floats
    device: Floats
    pool: Floats

    def mean(self, other: "RowPrices") -> "RowPrices":
        """Return the mean of two sets of prices."""
        return RowPrices(
            (self.served + other.served) / 2,
            (self.least + other.least) / 2,
            (self.most + other.most) / 2,
            (self.device + other.device) / 2,
            (self.pool + other.pool) / 2,
        )


class Master:
    """The linear program of what is left.

    Attributes:
        columns, amount: the columns, and how many devices hold each.
        value: of the optimum, in weighted requests/s less penalties.
        rounds, beside: at most so many of pricing, and of columns beside the best one.
    """

    def __init__(self, fleet: ColumnProblem, rest: Rest, rounds: int, beside: int = BESIDE) -> None:
        self.fleet, self.rest, self.rounds, self.beside = fleet, rest, rounds, beside
        self.columns = list[DeviceColumn]()
        self.amount: Floats = np.zeros(0)
        self.value = 0.0
        self._known = set[tuple[int, int, int, bytes]]()
        self._held = list[Any]()
        with np.errstate(divide="ignore", invalid="ignore"):
            self._scale = np.where(rest.open > 0, 1 / np.maximum(rest.open, 1e-12), 0.0)
        """(M,) open demands in a demand."""
        self._lacks = np.maximum(0, fleet.least - rest.count)
        self._open_part = rest.open.tolist()
        self._lacking = self._lacks.astype(np.float64).tolist()
        none = np.zeros(len(rest.open))
        self._raw = RowPrices(none, none, none, np.zeros(len(rest.free)), np.zeros(len(rest.pool)))
        self._program()

    def _program(self) -> None:
        """Make the program without columns."""
        fleet, rest, models = self.fleet, self.rest, range(len(self.rest.open))
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self._solver.infinity()
        self._objective = self._solver.Objective()
        self._objective.SetMaximization()
        row, variable = self._solver.Constraint, self._solver.NumVar
        self._served = [row(0.0, infinity) for _ in models]
        self._free = [row(-infinity, float(max(0, n))) for n in rest.free]
        self._pool = [row(-infinity, float(max(0.0, part))) for part in rest.pool]
        most = np.maximum(0, fleet.sites.need_max - rest.count)
        self._most = {k: row(-infinity, float(most[k])) for k in fleet.limited.tolist()}
        self._least = {
            k: row(float(self._lacks[k]), infinity) for k in np.flatnonzero(self._lacks).tolist()
        }
        for k in np.flatnonzero(rest.open > 0).tolist():
            served = variable(0.0, 1.0, "")
            self._served[k].SetCoefficient(served, -1.0)
            self._objective.SetCoefficient(served, float(fleet.worth[k] * rest.open[k]))
        # A missing replica is as bad as two idle devices.
        penalty = 2 * float(fleet.worth.sum()) / max(1, int(fleet.classes.count.sum()))
        for least in self._least.values():
            short = variable(0.0, infinity, "")
            least.SetCoefficient(short, 1.0)
            self._objective.SetCoefficient(short, -penalty)

    def add(self, column: DeviceColumn, classes: Iterable[int]) -> int:
        """Add a column for devices of these classes; return how many of those are new."""
        useful = self._useful(column)
        new = 0
        for cls in classes if len(useful.entries) else ():
            mine = self.fleet.on(useful, cls) if self.rest.free[cls] >= 1 else None
            if mine is None or mine.key in self._known:
                continue
            self._known.add(mine.key)
            self.columns.append(mine)
            self._held.append(self._variable(mine))
            new += 1
        return new

    def _useful(self, column: DeviceColumn) -> DeviceColumn:
        """Return a column without replicas of models that want none."""
        model = self.fleet.sites.entry_model[column.entries]
        wanted = (self.rest.open[model] > 0) | (self._lacks[model] > 0)
        return dataclasses.replace(column, entries=column.entries[wanted])

    def _variable(self, column: DeviceColumn) -> Any:
        """Add the variable of a column."""
        held = self._solver.NumVar(0.0, self._solver.infinity(), "")
        self._free[column.cls].SetCoefficient(held, 1.0)
        for pool, share in enumerate(self.fleet.drawn(column).tolist()):
            if share:
                self._pool[pool].SetCoefficient(held, share)
        for k, part, count in self._brings(column):
            self._served[k].SetCoefficient(held, part)
            for rows in (self._least, self._most):
                if k in rows:
                    rows[k].SetCoefficient(held, count)
        return held

    def _brings(self, column: DeviceColumn) -> list[tuple[int, float, float]]:
        """Return models, parts of their open demands, and replicas that a column brings."""
        model = self.fleet.sites.entry_model[column.entries]
        part = self.fleet.part[column.entries, column.level] * self._scale[model]
        found = []
        for k in dict.fromkeys(model.tolist()):
            mine = model == k
            served = float(part[mine].sum())
            count = float(mine.sum())
            found.append((k, served if self._lacks[k] > 0 else min(1.0, served), count))
        return found

    def solve(self) -> RowPrices:
        """Solve; return the duals, which are also the prices if there are none yet.

        Where GLOP finds no optimum the last ones stay, as its own would be 0.
        """
        optimal = self._solver.OPTIMAL
        # It goes on from the last basis, which may be none of the program that presolving makes.
        if self._solver.Solve() != optimal and self._solver.Solve(WITHOUT_PRESOLVE) != optimal:
            return self._raw
        self.value = float(self._objective.Value())
        self.amount = np.array([held.solution_value() for held in self._held])

        def of(rows: Iterable[Any]) -> Floats:
            return np.array([abs(row.dual_value()) for row in rows])

        least, most = np.zeros(len(self._served)), np.zeros(len(self._served))
        least[[*self._least]] = of(self._least.values())
        most[[*self._most]] = of(self._most.values())
        self._raw = RowPrices(of(self._served), least, most, of(self._free), of(self._pool))
        return self._raw

    def converge(self, stop: Callable[[], bool]) -> tuple[RowPrices, RowPrices]:
        """Solve and price until no promising column pays, the rounds end, or `stop` returns True.

        Args:
            stop: called several times a round.

        Returns:
            The smoothed prices and the duals of the end. Earlier ones prove little, and take the
            longest: at them many columns are worth nearly the same.
        """
        raw = self.solve()
        prices = raw
        for number in range(self.rounds):
            prices = prices.mean(raw)
            thorough = number % THOROUGH == THOROUGH - 1
            # Once no column pays at the smoothed prices, the duals decide.
            if not (self._price(prices, thorough, stop) or self._price(raw, True, stop)):
                break
            raw = self.solve()
            if stop():
                break
        return prices, raw

    def _price(self, duals: RowPrices, thorough: bool, stop: Callable[[], bool]) -> int:
        """Add columns that pay; return how many are new."""
        fleet, new = self.fleet, 0
        for family in fleet.families:
            for lead in family if thorough else family[:1]:
                classes = [
                    c
                    for c in range(len(self.rest.free))
                    if self.rest.free[c] >= 1 and fleet.classes.site_class[c] in family
                ]
                if not classes or stop():
                    continue
                new += self._price_class(duals, lead, classes, thorough)
        return new

    def _price_class(self, duals: RowPrices, lead: int, classes: list[int], thorough: bool) -> int:
        """Price the ways of one class of `Sites`, for devices of all these classes."""
        priced = min(classes, key=lambda c: float(duals.device[c]))
        worth, each = duals.served, duals.least - duals.most
        pools = self.fleet.pool_prices(duals.pool, priced)
        prices, need = self._prices(worth, each, pools), float(duals.device[priced])
        found, best = list[tuple[float, PricedWay, Ints]](), 0.0
        for way in sorted(self.fleet.ways[lead], key=lambda way: -way.bound):
            least = need + NEARLY * max(0.0, best - need) + LEAST_GAIN * (1 + need)
            if way.bound < FAR * least and not thorough:
                continue
            way.bound, value, entries = self._ask(way, prices, least, STEPS, NODES)
            if len(entries):
                best = max(best, value)
                found.append((value, way, entries))
        found.sort(key=lambda each: -each[0])
        new = sum(
            self.add(DeviceColumn(-1, w.site, w.level, entries), classes) for _, w, entries in found
        )
        if not found:
            return new
        # What a column serves no longer counts for the next devices beside it.
        _, way, entries = found[0]
        left = np.ones(len(worth))
        for _ in range(self.beside):
            model = self.fleet.sites.entry_model[entries]
            served = self.fleet.part[entries, way.level] * self._scale[model]
            np.subtract.at(left, model, served)
            left = np.maximum(0.0, left)
            beside = self._prices(worth * left, each * left, pools)
            _, _, entries = self._ask(way, beside, 0.0, 0, NODES_BESIDE)
            if not len(entries):
                break
            new += self.add(DeviceColumn(-1, way.site, way.level, entries), classes)
        return new

    def _prices(self, worth: Floats, each: Floats, pools: tuple[float, float]) -> ReplicaPrices:
        return ReplicaPrices(worth.tolist(), each.tolist(), self._open_part, self._lacking, *pools)

    def _ask(
        self, way: PricedWay, prices: ReplicaPrices, above: float, steps: int, nodes: int
    ) -> tuple[float, float, Ints]:
        """Return a bound for a way, and the best column worth more than `above` with its value."""
        pricer = self.fleet.pricer
        bound = pricer.price(way.way, prices, above, above, steps, nodes, PROMISING)
        return bound, pricer.value, np.sort(way.entries[pricer.chosen])
