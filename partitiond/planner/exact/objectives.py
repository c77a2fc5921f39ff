"""Builds the goal of one solve: cost, goodput, or the largest factor; and the price of moves."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Final

from partitiond.planner.exact.constraints import add_numbers
from partitiond.planner.exact.solver import cp_model
from partitiond.planner.exact.variables import Terms, Variables, by_model
from partitiond.planner.model.rates import reference_rates
from partitiond.planner.model.types import RATE_SCALE, Instance

STEPS: Final = 10_000_000
"""Number of steps into which the factor is cut; bounds are proven to one step. Chosen."""
MOST_TIMES: Final = 1 << 40
"""Limit for rates close to 0: CP-SAT takes 64-bit integers."""
PRECISION: Final = 10_000_000
"""Rates per step are rounded down to one part in this many, so that the optimum is a bound."""
SHARE_UNITS: Final = 10_000
OBJECTIVE_STEPS: Final = 10**8
"""Steps of the most that can be served: a hundred replicas are off by less than a millionth
together. With a hundred times as many, CP-SAT found no optimum of three models but claimed one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """The models that count under `Goal.GOODPUT`, and what other models keep.

    Attributes:
        counts: models whose weighted requests/s are the objective.
        kept: sets of models, each with the least weighted requests/s that the set gets together.
    """

    counts: frozenset[int]
    kept: tuple[tuple[frozenset[int], float], ...] = ()


class Goal(enum.Enum):
    """The goal of one solve."""

    COST = "cost"
    """Cover everything at the least cost."""
    GOODPUT = "goodput"
    """Meet least numbers of replicas, then maximise weighted requests/s."""
    SCALE = "scale"
    """Maximise the common factor of all demands; see `exact.scale`."""
    SHARE = "share"
    """Cover everything within a given cost; then even out the weighted shares of the rest."""


def total_cost(instance: Instance, variables: Variables) -> Any:
    """Return the cost of the devices in use and of their contents, in 1 / PRICE_SCALE."""
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
    """Maximise goodput; one replica of a least number is worth more than all requests together.

    Each replica counts in whole steps of the most that can be served, rounded up, so a bound on
    their sum bounds the goodput.

    Args:
        model: the CP-SAT model to build.
        instance: the problem instance.
        variables: the model's variables.
        stage: which models count; None for all.

    Returns:
        The size of one step, in weighted requests/s, and the steps that a missing replica counts.
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
    """Return the size of a step, each model's steps served, and the most steps of all models."""
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
            # Without this the solver may begin with few steps, and add one at a time.
            full = model.new_bool_var(f"full_{need.model}")
            model.add(served >= steps).only_enforce_if(full)
            model.add(served >= given).only_enforce_if(~full)
        terms.append(served)
        together += steps
    return step, terms, together


def most_served(instance: Instance, variables: Variables, model: int) -> int:
    """Return a bound on what any plan gives a model: every device is full of its best size."""
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
    """Maximise the smallest weighted share, then the sum of shares."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """The targets of the factor.

    Attributes:
        target: rate of each model at factor 1, in 1 / RATE_SCALE; models not in it have none.
        most: upper bound on the factor.
    """

    target: Mapping[int, float]
    most: float


def maximise_scale(
    model: cp_model.CpModel, instance: Instance, variables: Variables, scale: Scale
) -> float:
    """Require the numbers of replicas and maximise the factor; return the size of one unit."""
    factor = model.new_int_var(0, STEPS, "factor")
    mine_by_model = by_model(instance, variables)
    for need in instance.needs:
        mine = mine_by_model.get(need.model, [])
        add_numbers(model, need, mine, need.min_replicas)
        if need.model in scale.target:
            _cover(model, mine, scale.target[need.model] * scale.most, factor)
    model.maximize(factor)
    return scale.most / STEPS


def _cover(model: cp_model.CpModel, mine: Terms, rate: float, factor: Any) -> None:
    """Require the replicas to give the factor's part of a rate."""
    if rate <= 0:
        return
    step = rate / STEPS
    times = max(1, math.ceil(min(PRECISION / step, MOST_TIMES)))
    most = math.ceil(rate)
    given = sum(count * (min(each, most) * times) for count, each in mine)
    model.add(given >= math.floor(step * times) * factor)
