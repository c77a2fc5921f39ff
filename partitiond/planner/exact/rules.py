"""Adds the demands of models, and the rules between them: `avoid` on devices, `near` on hosts."""

from typing import Any

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Terms, Variables, by_model, left_if_lost, most_copies
from partitiond.planner.model.needs import ANY_NUMBER
from partitiond.planner.model.types import Instance, Need

Counted = list[tuple[Any, int]]
"""Counts of one model's replicas, each with its upper limit."""


def add_rules(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Add `avoid` on every device and `near` on every host."""
    ties = instance.ties
    if ties.avoided:
        on_device = _counts(instance, variables, {i: i for i in variables.used})
        _add_avoid(model, instance, on_device)
    if ties.near:
        host = {i: ties.host_of[i] for i in variables.used}
        _add_near(model, instance, _counts(instance, variables, host), set(host.values()))


def _counts(
    instance: Instance, variables: Variables, place_of: dict[int, int]
) -> dict[tuple[int, int], Counted]:
    """Return counts of replicas, each with its limit, by place (of a device) and model."""
    found: dict[tuple[int, int], Counted] = {}
    for (index, k, item), count in variables.count.items():
        group = instance.groups[instance.group_of[index]]
        most = min(group.options[k].max_items, most_copies(instance, group, item))
        key = (place_of[index], instance.items[item].model)
        found.setdefault(key, []).append((count, most))
    return found


def _add_avoid(
    model: cp_model.CpModel, instance: Instance, counts: dict[tuple[int, int], Counted]
) -> None:
    held: dict[tuple[int, int], Any] = {}
    for (index, number), mine in counts.items():
        if number in instance.ties.avoided:
            here = held[index, number] = model.new_bool_var(f"held_{index}_{number}")
            for count, most in mine:
                model.add(count <= most * here)
    for (index, number), here in held.items():
        for other in instance.ties.avoided[number]:
            if number < other and (index, other) in held:
                model.add_at_most_one(here, held[index, other])


def _add_near(
    model: cp_model.CpModel,
    instance: Instance,
    counts: dict[tuple[int, int], Counted],
    hosts: set[int],
) -> None:
    for number, others in instance.ties.near.items():
        for host in hosts:
            for other in others:
                company = sum(count for count, _ in counts.get((host, other), []))
                for count, most in counts.get((host, number), []):
                    model.add(count <= most * company)


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
