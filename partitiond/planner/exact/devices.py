"""Adds the limits of devices, and of what devices of one host share."""

import collections
import itertools
from typing import Any

from ortools.sat.python import cp_model

from partitiond.core.hardware.kinds import MIG_COMPUTE_SLICES, MIG_MEMORY_SLICES
from partitiond.core.mig.geometry import Geometry
from partitiond.planner.exact.variables import Variables
from partitiond.planner.model.ties import twins
from partitiond.planner.model.types import Instance, Item

Held = list[tuple[Any, Item]]
"""Counts of items on one device that is run one way."""


def add_device_limits(
    model: cp_model.CpModel, instance: Instance, variables: Variables, index: int
) -> None:
    """Limit a device to one way to run it, and its memory, SMs, cores, number and load by that."""
    group = instance.groups[instance.group_of[index]]
    ways = [variables.run[index, k] for k in range(len(group.options))]
    model.add(sum(ways) == variables.used[index])
    for k, option in enumerate(group.options):
        run = variables.run[index, k]
        here = [(count, instance.items[item]) for count, item in variables.here[index, k]]
        if not here:
            model.add(run == 0)
            continue
        number = sum(count for count, _ in here)
        model.add(number <= option.max_items * run)
        model.add(number >= run)
        if option.geometry is None:
            memory = group.memory_bytes - option.overhead_bytes
            model.add(sum(count * it.memory_bytes for count, it in here) <= memory * run)
        else:
            _add_geometry(model, option.geometry, here, run)
        if any(it.sm for _, it in here):
            model.add(sum(count * it.sm for count, it in here) <= group.sm_percent * run)
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


def _add_geometry(model: cp_model.CpModel, geometry: Geometry, here: Held, run: Any) -> None:
    """Require that the instances form a set that can be placed.

    The sets are a table over the numbers of instances by MIG profile. The limit on slices follows
    from the table, but is added as well because it tightens the relaxation.
    """
    by_profile: dict[int, list[Any]] = collections.defaultdict(list)
    for count, it in here:
        position = geometry.index(it.mig_profile)
        assert position is not None, "an item of another geometry is not among what fits"
        by_profile[position].append(count)
    used = sorted(by_profile)
    totals = []
    for position in used:
        most = geometry.profiles[position].max_instances
        total = model.new_int_var(0, most, "")
        model.add(total == sum(by_profile[position]))
        totals.append(total)
    allowed = sorted({tuple(counts[position] for position in used) for counts in geometry.sets})
    model.add_allowed_assignments(totals, allowed)
    memory = [geometry.profiles[position].memory_slices for position in used]
    compute = [geometry.profiles[position].compute_slices for position in used]
    free = MIG_MEMORY_SLICES - len(geometry.occupied)
    model.add(sum(n * size for n, size in zip(totals, memory, strict=True)) <= free * run)
    slices = zip(totals, compute, strict=True)
    model.add(sum(n * size for n, size in slices) <= MIG_COMPUTE_SLICES * run)


def add_pools(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Limit the cores and memory that devices of one host share."""
    for pool in instance.pools:
        taken = [
            count * instance.pool_use(pool, item)
            for (index, _, item), count in variables.count.items()
            if index in pool.bins
        ]
        if taken:
            model.add(sum(taken) <= pool.capacity)


def add_order(model: cp_model.CpModel, instance: Instance, variables: Variables) -> None:
    """Use earlier ones of interchangeable devices first. (Ordering by load was worse.)"""
    free = set(variables.free)
    for alike in twins(instance):
        mine = [index for index in alike if index in free]
        for earlier, later in itertools.pairwise(mine):
            model.add_implication(variables.used[later], variables.used[earlier])
