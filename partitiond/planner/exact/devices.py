"""Limits of devices, and of what devices of one host share."""

import itertools

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables
from partitiond.planner.instance import Instance


def add_device_limits(
    model: cp_model.CpModel, instance: Instance, variables: Variables, index: int
) -> None:
    """One way to run a device, and its memory, SMs, cores, number and load at that."""
    group = instance.groups[instance.group_of[index]]
    ways = [variables.run[index, k] for k in range(len(group.options))]
    model.add(sum(ways) == variables.used[index])
    for k, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
        run = variables.run[index, k]
        here = [(variables.count[index, k, item], instance.items[item]) for item in fit]
        number = sum(count for count, _ in here)
        model.add(number <= option.max_items * run)
        model.add(number >= run)
        memory = instance.memory(group, option)
        model.add(sum(count * it.memory_mib for count, it in here) <= memory * run)
        if any(it.sm for _, it in here):
            model.add(sum(count * it.sm for count, it in here) <= 100 * run)
        if group.cores:
            model.add(sum(count * it.cores for count, it in here) <= group.cores * run)
        busy = sum(count * it.busy for count, it in here)
        if option.mode is None or not any(it.busy for _, it in here):
            continue
        if option.kappa == 0 or len(set(option.busy_limit)) == 1:
            model.add(busy <= option.busy_limit[-1] * run)
            continue
        size = model.new_int_var(0, option.max_items, f"size_{index}_{k}")
        limit = model.new_int_var(0, max(option.busy_limit), f"limit_{index}_{k}")
        model.add(size == number)
        model.add_element(size, option.busy_limit, limit)
        model.add(busy <= limit)


def add_pools(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Cores and memory that devices of one host share."""
    for pool in instance.pools:
        taken = [
            count * instance.pool_use(pool, item)
            for (index, _, item), count in variables.count.items()
            if index in pool.bins
        ]
        if taken:
            model.add(sum(taken) <= pool.capacity)


def add_order(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Of interchangeable devices, earlier ones are used first. (Ordering by load was worse.)"""
    for group in instance.groups:
        mine = [index for index in group.bins if index in variables.used]
        for earlier, later in itertools.pairwise(mine):
            model.add_implication(variables.used[later], variables.used[earlier])
