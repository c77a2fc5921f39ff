"""Adds the limits of devices and hosts, and the rules: `avoid` on devices, `near` on hosts."""

import collections
import itertools
from typing import Any

from partitiond.core.hardware.kinds import MIG_COMPUTE_SLICES, MIG_MEMORY_SLICES
from partitiond.core.mig.geometry import Geometry
from partitiond.core.numbers.grouping import by_key
from partitiond.planner.exact.solver import cp_model
from partitiond.planner.exact.variables import Terms, Variables, by_model, left_if_lost
from partitiond.planner.model.needs import ANY_NUMBER
from partitiond.planner.model.rates import most_copies
from partitiond.planner.model.ties import twins
from partitiond.planner.model.types import Instance, Item, Need
from partitiond.planner.pack.packing import Packing

Held = list[tuple[Any, Item]]
"""Counts of items on one device that is run one way."""

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
        most = min(group.options[k].max_items, most_copies(instance.items[item], group))
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


def add_staying(model: cp_model.CpModel, variables: Variables, stays: Packing) -> None:
    """Leave what the loads of a packing hold where it is, at whatever level."""
    counts = by_key(((index, item), count) for (index, _, item), count in variables.count.items())
    held = collections.Counter((i, item) for i in stays.used() for item in stays.loads[i].items)
    for place, number in held.items():
        model.add(sum(counts[place]) >= number)


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
    for alike in twins(instance):
        mine = [index for index in alike if index in variables.used]
        for earlier, later in itertools.pairwise(mine):
            model.add_implication(variables.used[later], variables.used[earlier])
