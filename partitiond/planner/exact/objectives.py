"""What one solve is for."""

import dataclasses
import enum
import math
from typing import Any, Final

from ortools.sat.python import cp_model

from partitiond.planner.exact.demands import add_numbers
from partitiond.planner.exact.variables import Variables, by_model, most_copies
from partitiond.planner.last import of_the_last
from partitiond.planner.types import RATE_SCALE, Instance

SHARE_UNITS: Final = 10_000
OBJECTIVE_STEPS: Final = 10**8
"""Of the most that can be served: a hundred replicas are out by less than a millionth together.
With a hundred times as many CP-SAT found no optimum of three models any more, and claimed one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """Which models count under `Goal.GOODPUT`, and what others keep.

    Attributes:
        counts: models whose weighted requests/s are the objective.
        kept: sets of models with the least weighted requests/s that each gets together.
    """

    counts: frozenset[int]
    kept: tuple[tuple[frozenset[int], float], ...] = ()


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
    stage: Stage | None = None,
) -> tuple[float, int]:
    """One replica of a least number is worth more than all requests together.

    Each replica counts in whole steps of the most that can be served, rounded up: what bounds their
    sum bounds the goodput.

    Args:
        model: to build in.
        instance: the question.
        variables: of the model.
        stage: which models count; None for all.

    Returns:
        What one step is, in weighted requests/s, and how many of them a replica counts that lacks.
    """
    replicas = by_model(instance, variables)
    rated = any(need.rated for need in instance.needs)
    counted = frozenset(n.model for n in instance.needs if n.rated == rated)
    step, terms, most = _served(
        model, instance, variables, counted if stage is None else stage.counts & counted
    )
    replica = 1 + most
    for models, least in () if stage is None else stage.kept:
        unit, given, _ = _served(model, instance, variables, models)
        model.add(sum(given) >= math.floor(least / unit))
    for need in instance.needs:
        mine = replicas.get(need.model, [])
        number = sum(count for count, _ in mine)
        short = model.new_int_var(0, need.min_replicas, f"short_{need.model}")
        model.add(short >= need.min_replicas - number)
        terms.append(-replica * short)
        add_numbers(model, need, mine, 0)
    model.maximize(sum(terms))
    return step, replica


def _served(
    model: cp_model.CpModel, instance: Instance, variables: Variables, models: frozenset[int]
) -> tuple[float, list[Any], int]:
    """What models get, in steps of the most that they can: a step, their steps, the most of all."""
    replicas = by_model(instance, variables)
    mine = [n for n in instance.needs if n.model in models]
    most = {}
    for need in mine:
        full = most_served(instance, variables, need.model)
        most[need.model] = min(need.rate, full) if need.rated else full
    total = math.fsum(n.worth / RATE_SCALE * most[n.model] for n in mine)
    step = max(total, 1e-300) / OBJECTIVE_STEPS
    terms, together = list[Any](), 0
    for need in mine:
        each = need.worth / RATE_SCALE / step
        steps = math.ceil(each * most[need.model])
        served = model.new_int_var(0, steps, f"served_{need.model}")
        pairs = replicas.get(need.model, [])
        given = sum(count * math.ceil(rate * each) for count, rate in pairs)
        model.add(served <= given)
        if pairs:
            # By that alone the solver may begin with few steps, and add one at a time.
            full = model.new_bool_var(f"full_{need.model}")
            model.add(served >= steps).only_enforce_if(full)
            model.add(served >= given).only_enforce_if(~full)
        terms.append(served)
        together += steps
    return step, terms, together


def most_served(instance: Instance, variables: Variables, model: int) -> int:
    """No plan gives a model more: every device is full of its best size, however it is run."""
    best: dict[int, int] = {}
    for index, k, item in variables.count:
        if instance.items[item].model == model:
            option = instance.groups[instance.group_of[index]].options[k]
            full = option.max_items * instance.rate(item, option)
            best[index] = max(best.get(index, 0), full)
    return sum(best.values())


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


@of_the_last
def reference_rates(instance: Instance) -> dict[int, int]:
    """What one device can give each model at most when it has it to itself."""
    best = {need.model: 1 for need in instance.needs}
    for item, most in zip(instance.items, rates_alone(instance), strict=True):
        best[item.model] = max(best.get(item.model, 1), most)
    return best


def rates_alone(instance: Instance) -> list[int]:
    """For each item what one device full of it gives at most, in the units of its model."""
    best = [0] * len(instance.items)
    rate: dict[tuple[int, float], int] = {}
    # Groups that differ by their host only hold the same.
    alike = {(id(g.fits), g.memory_bytes, g.cores, g.sm_percent): g for g in instance.groups}
    for group in alike.values():
        copies: dict[int, int] = {}
        for option, fit in zip(group.options, group.fits, strict=True):
            for item in fit:
                if item not in copies:
                    copies[item] = most_copies(instance, group, item)
                most, at = min(option.max_items, copies[item]), (item, option.level)
                if at not in rate:
                    rate[at] = instance.rate(item, option)
                best[item] = max(best[item], most * rate[at])
    return best
