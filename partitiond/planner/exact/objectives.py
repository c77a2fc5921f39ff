"""What one solve is for."""

import enum
from collections.abc import Mapping
from typing import Any, Final

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables, by_model, most_copies
from partitiond.planner.instance import RATE_SCALE, Instance

SHARE_UNITS: Final = 10_000
OBJECTIVE_LIMIT: Final = 10**15
"""Largest objective; CP-SAT sums in 64 bits."""


class Goal(enum.Enum):
    """What one solve is for."""

    COST = "cost"
    """Cover everything at the least cost."""
    GOODPUT = "goodput"
    """Least numbers of replicas, then weighted requests/s."""
    SCALE = "scale"
    """The largest common factor of all demands, as `exact.scale` says."""
    SHARE = "share"
    """Cover everything at no more than a given cost; then even, weighted shares of the rest."""


def total_cost(instance: Instance, variables: Variables) -> Any:
    """Cost of the devices in use and of what is on them, in 1 / PRICE_SCALE."""
    groups = instance.groups
    devices = sum(groups[instance.group_of[i]].price * used for i, used in variables.used.items())
    items = instance.items
    return devices + sum(
        items[item].cost * count
        for (_, _, item), count in variables.count.items()
        if items[item].cost
    )


def maximise_goodput(
    model: cp_model.CpModel,
    instance: Instance,
    variables: Variables,
    floors: Mapping[int, int] | None = None,
) -> float:
    """One replica of a least number is worth more than all requests together.

    Args:
        model: to build in.
        instance: the question.
        variables: of the model.
        floors: rates that models get at least, in 1 / RATE_SCALE.

    Returns what one unit of the objective is at most, in weighted requests/s.
    """
    replicas = by_model(instance, variables)
    rated = any(need.rated for need in instance.needs)
    heaviest = max(need.weight for need in instance.needs)
    devices = len(variables.used)
    alone = reference_rates(instance)
    most = {
        need.model: need.rate if need.rated else alone[need.model] * devices
        for need in instance.needs
        if need.rated == rated
    }
    scale = max(1, min(10_000, OBJECTIVE_LIMIT // max(1, sum(most.values()))))
    weight = {n.model: max(1, round(scale * n.weight / heaviest)) for n in instance.needs}
    replica = 1 + sum(weight[m] * limit for m, limit in most.items())
    terms = []
    for need in instance.needs:
        mine = replicas.get(need.model, [])
        number = sum(count for count, _ in mine)
        short = model.new_int_var(0, need.min_replicas, f"short_{need.model}")
        model.add(short >= need.min_replicas - number)
        terms.append(-replica * short)
        if need.max_replicas < 1_000_000:
            model.add(number <= need.max_replicas)
        floor = (floors or {}).get(need.model, 0)
        if floor:
            model.add(sum(count * min(rate, floor) for count, rate in mine) >= floor)
        if need.model in most:
            served = model.new_int_var(0, most[need.model], f"served_{need.model}")
            model.add(served <= sum(count * rate for count, rate in mine))
            terms.append(weight[need.model] * served)
    model.maximize(sum(terms))
    # Weights are rounded to whole numbers: the bound is widened by the largest relative error.
    true = {n.model: n.weight for n in instance.needs}
    return max(true[m] / weight[m] for m in most) / RATE_SCALE


def maximise_share(
    model: cp_model.CpModel, instance: Instance, variables: Variables, cost_limit: int
) -> None:
    """The smallest weighted share as large as possible, then the sum of shares."""
    model.add(total_cost(instance, variables) <= cost_limit)
    replicas, alone = by_model(instance, variables), reference_rates(instance)
    lowest = model.new_int_var(0, 1000 * SHARE_UNITS, "lowest")
    total = []
    for need in (n for n in instance.needs if not n.rated):
        unit = alone[need.model]
        mine = replicas.get(need.model, [])
        share = sum(count * (rate * SHARE_UNITS // unit) for count, rate in mine)
        model.add(lowest * max(1, round(100 * need.weight)) <= 100 * share)
        total.append(share)
    model.maximize(len(total) * 100 * lowest + sum(total))


def reference_rates(instance: Instance) -> dict[int, int]:
    """What one device can give each model at most when it has it to itself."""
    best = {need.model: 1 for need in instance.needs}
    for group in instance.groups:
        for option, fit in zip(group.options, group.fits, strict=True):
            for item in fit:
                model = instance.items[item].model
                most = min(option.max_items, most_copies(instance, group, item))
                best[model] = max(best.get(model, 1), most * instance.rate(item, option))
    return best
