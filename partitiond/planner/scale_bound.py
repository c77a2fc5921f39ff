"""The largest common factor when all devices of a kind are poured together.

A linear program has the factor as a variable, and proposes prices: its duals. From any prices
follows a bound (`factor_at`), so no tolerance, status or value of the solver is taken at its word;
sums of floats are given a part in 10^9. Let a device be worth at most what its resources are worth,
run in the best way, and a number y be paid for each replica of a model. Then covering t times a
target at the least price per request/s, lambda, and the least number n of replicas costs at least
t * target * lambda + n * y, and no more than all devices are worth together.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ortools.linear_solver.python import model_builder

from partitiond.core.plan import Objective
from partitiond.planner.arrays import Problem, build_problem
from partitiond.planner.figures import down, up
from partitiond.planner.instance import SHARE_SCALE, Instance
from partitiond.planner.needs import ANY_NUMBER
from partitiond.planner.sites import NO_LIMIT, Floats, Ints

SAFETY: Final = 1e-9
"""Relative slack given away for floating-point sums: some million terms are out by less."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Any numbers; `factor_at` makes a bound of them.

    Attributes:
        entry: (E,) price of what a replica takes of its device; not negative.
        place: (P,) what a device is worth that is run so: no less than what it holds costs.
        number: (M,) paid for each replica of a model; below 0 where a largest number is scarce.
    """

    entry: Floats
    place: Floats
    number: Floats


def relaxed_factor(instance: Instance, target: Mapping[int, float]) -> float:
    """No plan has a larger factor; below 0 where not even the least numbers can be met.

    Where the solver ends without prices, every model has all devices to itself.
    """
    problem = build_problem(instance)
    if any(need.max_replicas < need.min_replicas for need in instance.needs):
        return -1.0
    program = _Program(problem, target, cap_of(instance, target))
    prices = program.prices()
    if prices is None and program.infeasible:
        # Of the least numbers instead: that has a solution, and its prices may prove it.
        prices = _Program(problem, {}, 1.0).prices()
    bounds = [_alone(problem, target), cap_of(instance, target) * (1 + SAFETY)]
    if prices is not None:
        bounds += [factor_at(problem, target, prices), _least_numbers(problem, prices)]
    bound = min(bounds)
    return 0.0 if 0 <= bound < _smallest(problem, target) else bound


def _smallest(problem: Problem, target: Mapping[int, float]) -> float:
    """Less than this is nothing: every model has the replica that gives least, at its worst."""
    shares = [cap_of(problem.instance, target)]
    for position, need in enumerate(problem.instance.needs):
        rates = problem.entry_rate[problem.entry_model == position]
        if need.model in target and len(rates):
            shares.append(float(rates.min()) / target[need.model])
    return min(shares) * (1 - 1e-6)


def factor_at(problem: Problem, target: Mapping[int, float], prices: Prices) -> float:
    """The bound that follows from prices; infinite where they say nothing, below 0 as a proof that
    the numbers of replicas cannot be met."""
    worth = _worth(problem, prices)
    paid, slope = [0.0], [0.0]
    for position, need in enumerate(problem.instance.needs):
        mine = np.flatnonzero(problem.entry_model == position)
        cheapest = float(prices.entry[mine].min(initial=math.inf))
        number = min(float(prices.number[position]), cheapest)
        if not math.isfinite(number):
            continue  # without entries it holds nothing
        if number < 0 and need.max_replicas >= ANY_NUMBER:
            number = 0.0
        paid.append(number * (need.min_replicas if number > 0 else need.max_replicas))
        giving = mine[problem.entry_rate[mine] > 0]
        if need.model in target and len(giving):
            each = (prices.entry[giving] - number) / problem.entry_rate[giving]
            slope.append(max(0.0, float(each.min())) * target[need.model])
    left = worth - math.fsum(paid)
    left += SAFETY * (worth + math.fsum(abs(x) for x in paid))
    if left < 0:
        return -1.0
    cost = math.fsum(slope) * (1 - SAFETY)
    return left / cost if cost > 0 else math.inf


def _least_numbers(problem: Problem, prices: Prices) -> float:
    """Below 0 where the cheapest replicas that there have to be cost more than all is worth."""
    needs = problem.instance.needs
    number = np.full(len(needs), math.inf)
    np.minimum.at(number, problem.entry_model, prices.entry)
    return factor_at(problem, {}, dataclasses.replace(prices, number=number))


def _worth(problem: Problem, prices: Prices) -> float:
    """Of all devices, each run in the way that is worth most."""
    best = np.zeros(len(problem.group_count))
    np.maximum.at(best, problem.place_group, prices.place)
    return math.fsum((best * problem.group_count).tolist())


def _alone(problem: Problem, target: Mapping[int, float]) -> float:
    """The factor of the model that gets least when each has every device to itself, in every way
    to run it at its best."""
    needs = problem.instance.needs
    most = np.zeros((len(needs), len(problem.group_count)))
    place = problem.entry_place
    full = problem.entry_rate.astype(np.float64) * problem.max_items[place]
    np.maximum.at(most, (problem.entry_model, problem.place_group[place]), full)
    sums = most @ problem.group_count
    shares = [sums[n] / target[need.model] for n, need in enumerate(needs) if need.model in target]
    return float(min(shares, default=math.inf)) * (1 + SAFETY)


def cap_of(instance: Instance, target: Mapping[int, float]) -> float:
    """Beyond this no share counts for more."""
    if instance.request.objective is not Objective.MAX_MIN:
        return math.inf
    shares = [n.planned / target[n.model] for n in instance.needs if n.rated and n.model in target]
    return min(shares, default=math.inf)


class _Program:
    """Entries poured into ways to run devices, these into kinds of devices.

    Without targets the factor is that of the least numbers, which is 0 at least: what they cost at
    most can then be told.
    """

    def __init__(self, problem: Problem, target: Mapping[int, float], most: float) -> None:
        self.problem = problem
        self.infeasible = False
        self.model = model_builder.Model()
        self.factor = self.model.new_num_var(0, most, "factor")
        self.amount = [self.model.new_num_var(0, math.inf, "") for _ in problem.entry_item]
        self.rows: list[tuple[int, Ints, Floats, Any]] = []
        self.least: list[tuple[int, Any]] = []
        self.largest: list[tuple[int, Any]] = []
        self._pour()
        self._models(target)
        self.model.maximize(self.factor)

    def prices(self) -> Prices | None:
        """The duals; None where the solver ends without an optimum."""
        solver = model_builder.Solver("GLOP")
        status = solver.solve(self.model)
        self.infeasible = status == model_builder.SolveStatus.INFEASIBLE
        if status != model_builder.SolveStatus.OPTIMAL:
            return None
        problem = self.problem
        entry = np.zeros(len(problem.entry_item))
        place = np.zeros(len(problem.place_group))
        number = np.zeros(len(problem.instance.needs))
        for at, entries, shares, row in self.rows:
            price = abs(float(solver.dual_value(row)))
            entry[entries] += price * shares
            place[at] += price
        for position, row in self.least:
            number[position] += abs(float(solver.dual_value(row)))
        for position, row in self.largest:
            number[position] -= abs(float(solver.dual_value(row)))
        return Prices(entry, place, number)

    def _models(self, target: Mapping[int, float]) -> None:
        problem = self.problem
        mine: dict[int, list[int]] = {}
        for e, m in enumerate(problem.entry_model):
            mine.setdefault(int(m), []).append(e)
        for position, need in enumerate(problem.instance.needs):
            replicas = sum(self.amount[e] for e in mine.get(position, []))
            least = need.min_replicas if target else need.min_replicas * self.factor
            if need.min_replicas:
                self.least.append((position, self.model.add(replicas >= least)))
            if need.max_replicas < ANY_NUMBER:
                row = self.model.add(replicas <= need.max_replicas)
                self.largest.append((position, row))
            if need.model in target:
                each = target[need.model]
                here = mine.get(position, [])
                rates = [problem.entry_rate[e] / each * self.amount[e] for e in here]
                self.model.add(sum(rates) >= self.factor)

    def _pour(self) -> None:
        """Devices run each way, and what they hold at most."""
        problem, ways = self.problem, dict[int, list[Any]]()
        for place, group in enumerate(problem.place_group):
            first, last = int(problem.place_start[place]), int(problem.place_start[place + 1])
            if first == last:
                continue
            used = self.model.new_num_var(0, math.inf, "")
            ways.setdefault(int(group), []).append(used)
            here = np.arange(first, last)
            for r, capacity in enumerate(problem.capacity[place]):
                if capacity < NO_LIMIT:
                    self._row(place, here, problem.entry_use[here, r], int(capacity), used)
            ones = np.ones(len(here), dtype=np.int64)
            self._row(place, here, ones, int(problem.max_items[place]), used)
            option = problem.instance.groups[group].options[problem.place_option[place]]
            if option.mode is not None:
                kappa = down(option.kappa, SHARE_SCALE)
                load = up(option.level, SHARE_SCALE) + kappa
                self._row(place, here, problem.entry_busy[here] + kappa, load, used)
        for index, mine in ways.items():
            self.model.add(sum(mine) <= int(problem.group_count[index]))

    def _row(self, place: int, here: Ints, use: Ints, capacity: int, used: Any) -> None:
        taking = np.flatnonzero(use > 0)
        if len(taking):
            entries, shares = here[taking], use[taking] / max(1, capacity)
            parts = [x * self.amount[e] for e, x in zip(entries, shares, strict=True)]
            self.rows.append((place, entries, shares, self.model.add(sum(parts) <= used)))
