"""What models ask for."""

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables, by_model
from partitiond.planner.instance import Instance


def add_demands(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Every model's rate, least and largest number of replicas."""
    mine_by_model = by_model(instance, variables)
    for need in instance.needs:
        mine = mine_by_model.get(need.model, [])
        number = sum(count for count, _ in mine)
        model.add(number >= need.min_replicas)
        if need.max_replicas < 1_000_000:
            model.add(number <= need.max_replicas)
        if need.rate:
            # Rates beyond the demand count as the demand: the same plans, a tighter relaxation.
            model.add(sum(count * min(rate, need.rate) for count, rate in mine) >= need.rate)
