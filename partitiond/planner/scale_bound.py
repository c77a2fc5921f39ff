"""The largest common factor when all devices of a kind are poured together: one linear program."""

import math
from collections.abc import Mapping
from typing import Any, Final

from ortools.linear_solver.python import model_builder

from partitiond.core.plan import Objective
from partitiond.planner.arrays import NO_LIMIT, Problem, build_problem
from partitiond.planner.instance import SHARE_SCALE, Instance
from partitiond.planner.needs import ANY_NUMBER

SLACK: Final = 1e-6


def relaxed_factor(instance: Instance, target: Mapping[int, float]) -> float | None:
    """The largest factor when all devices of a kind are poured together.

    None where not even the least numbers of replicas can be met. The relaxation is that of
    `planner.bound`: load is linear by kappa, whole replicas are not asked for.
    """
    problem = build_problem(instance)
    model = model_builder.Model()
    factor = model.new_num_var(0, _cap(instance, target), "factor")
    amount = [model.new_num_var(0, math.inf, "") for _ in problem.entry_item]
    _pour(problem, model, amount)
    mine: dict[int, list[int]] = {}
    for e, m in enumerate(problem.entry_model):
        mine.setdefault(int(m), []).append(e)
    for position, need in enumerate(instance.needs):
        replicas = sum(amount[e] for e in mine.get(position, []))
        model.add(replicas >= need.min_replicas)
        if need.max_replicas < ANY_NUMBER:
            model.add(replicas <= need.max_replicas)
        if need.model in target:
            each = target[need.model]
            rates = [problem.entry_rate[e] / each * amount[e] for e in mine.get(position, [])]
            model.add(sum(rates) >= factor)
    model.maximize(factor)
    solver = model_builder.Solver("GLOP")
    if solver.solve(model) != model_builder.SolveStatus.OPTIMAL:
        return None
    return float(solver.objective_value) * (1 + SLACK)


def _cap(instance: Instance, target: Mapping[int, float]) -> float:
    """Beyond this no share counts for more."""
    if instance.request.objective is not Objective.MAX_MIN:
        return math.inf
    shares = [n.rate / target[n.model] for n in instance.needs if n.rated and n.model in target]
    return min(shares, default=math.inf)


def _pour(problem: Problem, model: model_builder.Model, amount: list[Any]) -> None:
    """Devices run each way, and what they hold at most."""
    ways: dict[int, list[Any]] = {}
    for place, group in enumerate(problem.place_group):
        first, last = int(problem.place_start[place]), int(problem.place_start[place + 1])
        if first == last:
            continue
        used = model.new_num_var(0, math.inf, "")
        ways.setdefault(int(group), []).append(used)
        here = range(first, last)
        for r, capacity in enumerate(problem.capacity[place]):
            if capacity < NO_LIMIT:
                use = problem.entry_use[:, r]
                _row(model, [(int(use[e]), amount[e]) for e in here], int(capacity), used)
        _row(model, [(1, amount[e]) for e in here], int(problem.max_items[place]), used)
        option = problem.instance.groups[group].options[problem.place_option[place]]
        if option.mode is not None:
            load = math.ceil(option.level * SHARE_SCALE) + option.kappa
            busy = problem.entry_busy
            _row(model, [(int(busy[e]) + option.kappa, amount[e]) for e in here], load, used)
    for index, mine in ways.items():
        model.add(sum(mine) <= int(problem.group_count[index]))


def _row(
    model: model_builder.Model, terms: list[tuple[int, Any]], capacity: int, used: Any
) -> None:
    parts = [use / max(1, capacity) * x for use, x in terms if use > 0]
    if parts:
        model.add(sum(parts) <= used)
