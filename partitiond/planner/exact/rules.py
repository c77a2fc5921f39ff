"""Adds placement rules that always hold: models that avoid each other, and models that are near."""

from typing import Any

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables, most_copies
from partitiond.planner.model.types import Instance

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
