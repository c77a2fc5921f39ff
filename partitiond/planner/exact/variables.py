"""Variables of the model: how each device is run, and how many of each item it holds."""

import dataclasses
from typing import Any

from ortools.sat.python import cp_model

from partitiond.planner.instance import Group, Instance


@dataclasses.dataclass(slots=True)
class Variables:
    """Variables by device; keys are (device, option) and (device, option, item)."""

    used: dict[int, Any]
    run: dict[tuple[int, int], Any]
    count: dict[tuple[int, int, int], Any]


def variable_count(instance: Instance, devices: list[int]) -> int:
    """Integer variables that the instance takes with these devices."""
    sizes = [sum(len(fit) for fit in g.fits) for g in instance.groups]
    return sum(sizes[instance.group_of[index]] for index in devices)


def make_variables(model: cp_model.CpModel, instance: Instance, devices: list[int]) -> Variables:
    """Variables for some of the devices; others stay empty."""
    found = Variables({}, {}, {})
    for index in devices:
        group = instance.groups[instance.group_of[index]]
        found.used[index] = model.new_bool_var(f"used_{index}")
        for k, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
            found.run[index, k] = model.new_bool_var(f"run_{index}_{k}")
            for item in fit:
                most = min(option.max_items, most_copies(instance, group, item))
                name = f"count_{index}_{k}_{item}"
                found.count[index, k, item] = model.new_int_var(0, most, name)
    return found


def most_copies(instance: Instance, group: Group, item: int) -> int:
    """Copies of one item that a device can hold at most."""
    it = instance.items[item]
    geometry = next((o.geometry for o in group.options if o.geometry is not None), None)
    position = None if geometry is None else geometry.index(it.mig_profile)
    if geometry is not None and position is not None:
        limits = [geometry.profiles[position].max_instances]
    else:
        limits = [group.memory_mib // max(1, it.memory_mib)]
    limits += [group.sm_percent // it.sm] if it.sm else []
    limits += [group.cores // it.cores] if group.cores and it.cores else []
    return min(limits)


def by_model(instance: Instance, variables: Variables) -> dict[int, list[tuple[Any, int]]]:
    """For each model the counts of its replicas, with what each gives."""
    found: dict[int, list[tuple[Any, int]]] = {}
    for (index, k, item), count in variables.count.items():
        option = instance.groups[instance.group_of[index]].options[k]
        rate = instance.rate(item, option)
        found.setdefault(instance.items[item].model, []).append((count, rate))
    return found
