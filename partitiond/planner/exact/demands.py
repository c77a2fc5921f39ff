"""Adds the demands of models."""

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Terms, Variables, by_model, left_if_lost
from partitiond.planner.model.needs import ANY_NUMBER
from partitiond.planner.model.types import Instance, Need


def add_demands(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Require every model's rate, its numbers of replicas, and what must survive a loss."""
    mine_by_model = by_model(instance, variables)
    for need in instance.needs:
        mine = mine_by_model.get(need.model, [])
        add_numbers(model, need, mine, need.min_replicas)
        _add_rate(model, mine, need.rate)
        for left in left_if_lost(instance, variables, need) if need.domain_of else ():
            _add_rate(model, left, need.survive_rate)
            if need.survive_replicas:
                model.add(sum(count for count, _ in left) >= need.survive_replicas)


def add_numbers(model: cp_model.CpModel, need: Need, mine: Terms, least: int) -> None:
    """Require `least` replicas of a model, and no more than its largest number."""
    number = sum(count for count, _ in mine)
    if least:
        model.add(number >= least)
    if need.max_replicas < ANY_NUMBER:
        model.add(number <= need.max_replicas)


def _add_rate(model: cp_model.CpModel, mine: Terms, rate: int) -> None:
    if rate:
        # Rates beyond the demand count as the demand: the same plans, but a tighter relaxation.
        model.add(sum(count * min(each, rate) for count, each in mine) >= rate)
