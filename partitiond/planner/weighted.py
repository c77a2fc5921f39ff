"""The weighted-resource relaxation: all devices of one kind poured together, as a linear program.

Its duals price each resource of each way to run a kind of device, and what hosts share. From any
such prices follows a bound (`best_multiple`); those of the relaxation's optimum are good ones.
"""

import dataclasses
import math
from typing import Final, NamedTuple, cast

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.arrays import Problem
from partitiond.planner.sites import NO_LIMIT, Floats, Ints
from partitiond.planner.types import PRICE_SCALE, RATE_SCALE

LOAD: Final = -2
COUNT: Final = -1
"""Columns of `shares` after the problem's own resources."""
MANY: Final = 1_000_000
"""`need_max` from here on does not limit."""
SAFETY: Final = 1e-9
"""Relative slack given away for floating-point sums."""
SAMPLE: Final = 12_000
"""Entries of the linear program, which takes a second or two for so many."""
PROOF: Final = 1e-6
"""Relative excess of demand at which it counts as proven that devices cannot serve it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """The relaxation's optimum.

    Attributes:
        value: cost of devices and replicas, or weighted requests/s; of floating-point accuracy,
            no bound by itself.
        price: (P, R) worth of all of one device's resources.
        pool: (L,) worth of one unit of each pool.
        used: (P,) devices.
    """

    value: float
    price: Floats
    pool: Floats
    used: Floats


def shares(problem: Problem) -> Floats:
    """(E, R) what each entry takes of one device: the problem's resources, load, number.

    The load of n replicas is at most `busy_limit[n]`, which lies under a line I - s n, so the
    sum of (busy + s) is at most I: linear whatever the interference.
    """
    place = problem.entry_place
    capacity = problem.capacity[place].astype(np.float64)
    limited = (capacity > 0) & (problem.capacity[place] < NO_LIMIT)
    found = np.where(limited, problem.entry_use / np.maximum(capacity, 1.0), 0.0)
    lines = np.array([_line(problem, p) for p in range(len(problem.place_group))]).reshape(-1, 2)
    slope, level = lines[place, 0], lines[place, 1]
    load = np.where(level > 0, (problem.entry_busy + slope) / np.maximum(level, 1.0), 0.0)
    count = 1.0 / np.maximum(problem.max_items[place], 1)
    return np.column_stack([found, load, count])


def _line(problem: Problem, place: int) -> tuple[float, float]:
    """Slope and level of the line above `busy_limit`; level 0 where load does not limit."""
    most = int(problem.max_items[place])
    limit = problem.busy_limit[place].astype(np.float64)
    if most < 1 or limit[1] >= NO_LIMIT / 2:
        return 0.0, 0.0
    slope = max(0.0, (limit[1] - limit[most]) / (most - 1)) if most > 1 else 0.0
    return slope, max(0.0, float(max(limit[n] + slope * n for n in range(1, most + 1))))


def solve_weighted(problem: Problem, as_cost: bool) -> Weighted | None:
    """Solve the relaxation; None where some need contradicts itself, so that it cannot be met.

    Where the devices cannot serve all needs, prices are those of the largest part of them that can
    be served: what all of it takes at these is more than there is, which is a proof.
    """
    if as_cost and _contradict(problem):
        return None
    return _Program(problem, as_cost).solve()


def _contradict(problem: Problem) -> bool:
    """Whether a least number or a rate takes more replicas than there may be."""
    best = np.zeros(len(problem.need_rate), dtype=np.int64)
    np.maximum.at(best, problem.entry_model, problem.entry_rate)
    limited = problem.need_max < MANY
    most = np.where(limited, problem.need_max, 0).astype(np.float64) * best
    few = (problem.need_min > problem.need_max).any()
    return bool(few or (limited & (problem.need_rate > most * (1 + SAFETY))).any())


def solve_sampled(problem: Problem, as_cost: bool, entries: int = SAMPLE) -> Weighted | None:
    """As `solve_weighted`, on every n-th model and an n-th of all devices where there are many.

    Bounds hold for any prices, and those of so many models are nearly those of all. That a sample
    cannot be served proves nothing: its prices are those of the most goodput then.
    """
    every = -(-len(problem.entry_item) // entries)
    if every <= 1:
        return solve_weighted(problem, as_cost)
    part = _sample(problem, every)
    found = solve_weighted(part, as_cost)
    if found is None:
        found = solve_weighted(part, as_cost=False)
    return None if found is None else dataclasses.replace(found, used=found.used * every)


def _sample(problem: Problem, every: int) -> Problem:
    mine = np.flatnonzero(problem.entry_model % every == 0)
    models = slice(None, None, every)
    return dataclasses.replace(
        problem,
        entry_item=problem.entry_item[mine],
        entry_model=problem.entry_model[mine] // every,
        entry_place=problem.entry_place[mine],
        entry_rate=problem.entry_rate[mine],
        entry_use=problem.entry_use[mine],
        entry_busy=problem.entry_busy[mine],
        entry_code=problem.entry_code[mine],
        entry_cost=problem.entry_cost[mine],
        entry_pool=problem.entry_pool[mine],
        need_rate=problem.need_rate[models],
        need_min=problem.need_min[models],
        need_max=problem.need_max[models],
        need_weight=problem.need_weight[models],
        need_rated=problem.need_rated[models],
        # Parts of a device are devices enough here.
        group_count=cast(Ints, problem.group_count / every),
        pool_capacity=cast(Ints, problem.pool_capacity / every),
    )


class _Program:
    """Entries poured into places, places into groups."""

    def __init__(self, problem: Problem, as_cost: bool) -> None:
        self.problem, self.as_cost = problem, as_cost
        self.model = mathopt.Model()
        self.share = shares(problem)
        self.amount = [self.model.add_variable(lb=0.0) for _ in problem.entry_item]
        self.used = [self.model.add_variable(lb=0.0) for _ in problem.place_group]
        self.rows: dict[tuple[int, int], mathopt.LinearConstraint] = {}
        self.wanted: list[tuple[mathopt.LinearConstraint, float]] = []
        """What has to be reached at least, and how much that is."""
        self._devices()
        self._pools()
        if as_cost:
            self._cost()
        else:
            self._served()

    def _devices(self) -> None:
        problem, add = self.problem, self.model.add_linear_constraint
        for entry, place in enumerate(problem.entry_place):
            for r in np.flatnonzero(self.share[entry] > 0):
                key = (int(place), int(r))
                if key not in self.rows:
                    self.rows[key] = add(ub=0.0)
                    self.rows[key].set_coefficient(self.used[place], -1.0)
                self.rows[key].set_coefficient(self.amount[entry], float(self.share[entry, r]))
        self.counts = [add(ub=float(n)) for n in problem.group_count]
        for place, group in enumerate(problem.place_group):
            self.counts[group].set_coefficient(self.used[place], 1.0)

    def _pools(self) -> None:
        problem = self.problem
        self.pools = [self.model.add_linear_constraint(ub=float(c)) for c in problem.pool_capacity]
        for pool, row in enumerate(self.pools):
            for entry in np.flatnonzero(problem.entry_pool[:, pool] > 0):
                row.set_coefficient(self.amount[entry], float(problem.entry_pool[entry, pool]))

    def _by_model(self) -> list[Ints]:
        models = len(self.problem.need_rate)
        order = np.argsort(self.problem.entry_model, kind="stable")
        cuts = np.searchsorted(self.problem.entry_model[order], np.arange(1, models))
        return [*np.split(order, cuts)] if models else []

    def _cost(self) -> None:
        """All of every demand, at the least cost; rates beyond a demand count as the demand."""
        problem, objective = self.problem, self.model.objective
        for place, group in enumerate(problem.place_group):
            cost = problem.group_cost[group] / PRICE_SCALE
            objective.set_linear_coefficient(self.used[place], float(cost))
        for entry in np.flatnonzero(problem.entry_cost > 0):
            cost = problem.entry_cost[entry] / PRICE_SCALE
            objective.set_linear_coefficient(self.amount[entry], float(cost))
        for model, mine in enumerate(self._by_model()):
            self._replicas(model, mine, float(problem.need_min[model]))
            need = int(problem.need_rate[model])
            if need > 0:
                row = self.model.add_linear_constraint(lb=1.0)
                self.wanted.append((row, 1.0))
                for entry in mine:
                    rate = min(int(problem.entry_rate[entry]), need)
                    row.set_coefficient(self.amount[entry], rate / need)

    def _served(self) -> None:
        """The most weighted requests/s; models without a rate count where no other is."""
        problem, objective = self.problem, self.model.objective
        objective.is_maximize = True
        rated = bool(problem.need_rated.any())
        for model, mine in enumerate(self._by_model()):
            self._replicas(model, mine, -math.inf)
            if bool(problem.need_rated[model]) != rated:
                continue
            most = float(problem.need_rate[model]) / RATE_SCALE if rated else math.inf
            served = self.model.add_variable(lb=0.0, ub=most)
            row = self.model.add_linear_constraint(ub=0.0)
            row.set_coefficient(served, 1.0)
            for entry in mine:
                rate = float(problem.entry_rate[entry]) / RATE_SCALE
                row.set_coefficient(self.amount[entry], -rate)
            objective.set_linear_coefficient(served, float(problem.need_weight[model]))

    def _replicas(self, model: int, mine: Ints, least: float) -> None:
        most = int(self.problem.need_max[model])
        if most >= MANY and least <= 0:
            return
        row = self.model.add_linear_constraint(
            lb=least, ub=float(most) if most < MANY else math.inf
        )
        if least > 0:
            self.wanted.append((row, least))
        for entry in mine:
            row.set_coefficient(self.amount[entry], 1.0)

    def solve(self) -> Weighted:
        result = mathopt.solve(self.model, mathopt.SolverType.GLOP)
        reason = mathopt.TerminationReason
        if result.termination.reason is reason.INFEASIBLE:
            result = self._largest_part()
        if result.termination.reason is not reason.OPTIMAL:
            return self._nothing()
        price = np.zeros((len(self.used), self.share.shape[1]))
        for (place, r), row in self.rows.items():
            price[place, r] = abs(result.dual_values(row))
        return Weighted(
            value=result.objective_value(),
            price=price,
            pool=np.abs(np.array(result.dual_values(self.pools), dtype=np.float64)),
            used=np.array(result.variable_values(self.used), dtype=np.float64),
        )

    def _largest_part(self) -> mathopt.SolveResult:
        """The same part of all that is wanted, as large as can be: that has a solution."""
        lacking = self.model.add_variable(lb=0.0, ub=1.0)
        for row, least in self.wanted:
            row.set_coefficient(lacking, least)
        self.model.minimize(lacking)
        return mathopt.solve(self.model, mathopt.SolverType.GLOP)

    def _nothing(self) -> Weighted:
        """Prices without a solution: all resources alike. Bounds from them are valid."""
        places, resources = len(self.used), self.share.shape[1]
        cost = self.problem.group_cost[self.problem.place_group] / PRICE_SCALE / resources
        price = np.repeat(np.asarray(cost, dtype=np.float64)[:, None], resources, axis=1)
        return Weighted(0.0, price, np.zeros(len(self.pools)), np.zeros(places))


class Worth(NamedTuple):
    """What devices and pools are worth at some prices.

    Attributes:
        value: (C,) no device of a class is worth more.
        cost, devices: (C,) what one costs, and how many there are.
        pools: worth of all pools.
    """

    value: Floats
    cost: Floats
    devices: Ints
    pools: float

    def of_all(self) -> float:
        """Of all there is."""
        return float(self.value @ self.devices) + self.pools

    def exceeded(self, covered: float) -> bool:
        """Whether covering sets surely cost more than all there is."""
        return covered > (self.of_all() + PROOF) * (1 + PROOF)


def best_multiple(covered: float, worth: Worth) -> tuple[float, float]:
    """The factor t for which t * prices bound the cost best, and that bound.

    Covering sets cost `covered` at the prices, a device of class c is worth at most `value[c]`,
    so all plans cost at least t covered - sum count max(0, t value - cost) - t pools: concave and
    piecewise linear in t, so best at a break; or growing without end, which proves that not all
    can be served, and the bound is infinite.
    """
    if worth.exceeded(covered):
        return 1.0, math.inf
    breaks = {float(k / v) for k, v in zip(worth.cost, worth.value, strict=True) if v > 0}
    found = [(t, bound_at(t, t * covered, worth)) for t in sorted(breaks | {1.0})]
    return max(found, key=lambda pair: pair[1])


def bound_at(t: float, covered: float, worth: Worth) -> float:
    """The bound on the cost at t times the prices, at which covering sets cost `covered`."""
    excess = np.maximum(0.0, t * worth.value - worth.cost) * worth.devices
    parts = [covered, *(-excess), -t * worth.pools]
    return math.fsum(parts) - SAFETY * math.fsum(abs(x) for x in parts)


def entry_prices(problem: Problem, found: Weighted) -> Floats:
    """(E,) worth of one replica of each entry: of what it takes of its device and of pools."""
    price = (shares(problem) * found.price[problem.entry_place]).sum(axis=1)
    return np.asarray(price + problem.entry_pool @ found.pool)
