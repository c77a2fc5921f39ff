"""Makes the variables of the model: how each device is run, and how many of each item it holds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from partitiond.planner.exact.solver import cp_model
from partitiond.planner.model.rates import most_copies
from partitiond.planner.model.types import Instance, Need
from partitiond.planner.pack.packing import Packing

Terms = list[tuple[Any, int]]
"""Counts of replicas, with the rate that each replica gives."""


@dataclasses.dataclass(slots=True)
class Variables:
    """Variables by device; keys are (device, option) and (device, option, item).

    Attributes:
        here: possible contents of a device that is decided, by (device, option): counts and items.
    """

    used: dict[int, Any]
    run: dict[tuple[int, int], Any]
    count: dict[tuple[int, int, int], Any]
    here: dict[tuple[int, int], list[tuple[Any, int]]] = dataclasses.field(default_factory=dict)


def variable_count(instance: Instance, devices: list[int]) -> int:
    """Return the number of integer variables that the instance takes with these devices."""
    sizes = [sum(len(fit) for fit in g.fits) for g in instance.groups]
    return sum(sizes[instance.group_of[index]] for index in devices)


def make_variables(
    model: cp_model.CpModel,
    instance: Instance,
    devices: list[int],
    *,
    hint: Packing | None = None,
) -> Variables:
    """Make the variables for some of the devices.

    Args:
        model: the CP-SAT model to build.
        instance: the problem instance.
        devices: devices whose contents are decided.
        hint: its items can be held even if other items beat them.
    """
    found = Variables({}, {}, {})
    held = _held(hint)
    for index in devices:
        group = instance.groups[instance.group_of[index]]
        found.used[index] = model.new_bool_var(f"used_{index}")
        for k, option in enumerate(group.options):
            found.run[index, k] = model.new_bool_var(f"run_{index}_{k}")
            here = found.here.setdefault((index, k), [])
            for item in dict.fromkeys((*group.fits[k], *sorted(held.get((group.index, k), ())))):
                most = min(option.max_items, most_copies(instance.items[item], group))
                name = f"count_{index}_{k}_{item}"
                count = found.count[index, k, item] = model.new_int_var(0, most, name)
                here.append((count, item))
    return found


def _held(hint: Packing | None) -> dict[tuple[int, int], set[int]]:
    """Return the items that a packing has, by group and option."""
    found: dict[tuple[int, int], set[int]] = {}
    for load in hint.loads if hint is not None else ():
        if load.option is not None:
            found.setdefault((load.group, load.option), set()).update(load.items)
    return found


def by_model(instance: Instance, variables: Variables) -> dict[int, Terms]:
    """Return the replicas of each model."""
    found: dict[int, Terms] = {}
    for (index, k, item), count in variables.count.items():
        option = instance.groups[instance.group_of[index]].options[k]
        rate = instance.rate(item, option)
        found.setdefault(instance.items[item].model, []).append((count, rate))
    return found


def left_if_lost(instance: Instance, variables: Variables, need: Need) -> Iterator[Terms]:
    """Yield, for each fault domain that may hold the model, its replicas in the other domains."""
    inside: dict[int, Terms] = {}
    for (index, k, item), count in variables.count.items():
        if instance.items[item].model == need.model:
            option = instance.groups[instance.group_of[index]].options[k]
            each = (count, instance.rate(item, option))
            inside.setdefault(need.domain_of[index], []).append(each)
    for lost in inside:
        yield [term for domain, terms in inside.items() if domain != lost for term in terms]
