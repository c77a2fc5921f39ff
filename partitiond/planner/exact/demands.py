"""What models ask for."""

from typing import Any

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables, by_model
from partitiond.planner.instance import Instance, Need
from partitiond.planner.needs import ANY_NUMBER


def add_demands(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Every model's rate, least and largest number of replicas, and what survives a loss."""
    mine_by_model = by_model(instance, variables)
    for need in instance.needs:
        mine = mine_by_model.get(need.model, [])
        number = sum(count for count, _ in mine)
        model.add(number >= need.min_replicas)
        if need.max_replicas < ANY_NUMBER:
            model.add(number <= need.max_replicas)
        if need.rate:
            # Rates beyond the demand count as the demand: the same plans, a tighter relaxation.
            model.add(sum(count * min(rate, need.rate) for count, rate in mine) >= need.rate)
        if need.domain_of:
            _add_survival(model, instance, variables, need)


def _add_survival(
    model: cp_model.CpModel, instance: Instance, variables: Variables, need: Need
) -> None:
    """Without any one fault domain enough is left."""
    inside: dict[int, list[tuple[Any, int]]] = {}
    for (index, k, item), count in variables.count.items():
        if instance.items[item].model == need.model:
            option = instance.groups[instance.group_of[index]].options[k]
            rate = min(instance.rate(item, option), need.survive_rate)
            inside.setdefault(need.domain_of[index], []).append((count, rate))
    for lost in inside:
        left = [term for domain, terms in inside.items() if domain != lost for term in terms]
        if need.survive_rate:
            model.add(sum(count * rate for count, rate in left) >= need.survive_rate)
        if need.survive_replicas:
            model.add(sum(count for count, _ in left) >= need.survive_replicas)
