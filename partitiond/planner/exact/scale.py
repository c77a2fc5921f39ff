"""The largest common factor: `max-min` and `max-headroom` in one variable."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from ortools.sat.python import cp_model

from partitiond.planner.exact.variables import Variables, by_model
from partitiond.planner.instance import Instance, Need
from partitiond.planner.needs import ANY_NUMBER

STEPS: Final = 10_000_000
"""Steps into which the factor is cut; what is proven is proven to one of them."""
MOST_TIMES: Final = 1 << 40
"""For rates next to nothing: CP-SAT takes whole numbers of 64 bits."""
PRECISION: Final = 1_000_000
"""Rates per step are rounded down to one in so many, so that the optimum is a bound."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """What the factor is about.

    Attributes:
        target: rate of each model at factor 1, in 1 / RATE_SCALE; models not in it have none.
        most: the factor is no larger than this.
        survive: rate of each model, at factor 1, that has to be left when a fault domain is lost.
    """

    target: Mapping[int, float]
    most: float
    survive: Mapping[int, float]


def maximise_scale(
    model: cp_model.CpModel, instance: Instance, variables: Variables, scale: Scale
) -> float:
    """Numbers of replicas hold; then the factor. Returns what one unit of the objective is."""
    factor = model.new_int_var(0, STEPS, "factor")
    mine_by_model = by_model(instance, variables)
    for need in instance.needs:
        mine = mine_by_model.get(need.model, [])
        number = sum(count for count, _ in mine)
        model.add(number >= need.min_replicas)
        if need.max_replicas < ANY_NUMBER:
            model.add(number <= need.max_replicas)
        if need.model in scale.target:
            _cover(model, mine, scale.target[need.model] * scale.most, factor)
        if need.domain_of and scale.survive.get(need.model):
            inside = _by_domain(instance, variables, need)
            _survive(model, inside, scale.survive[need.model] * scale.most, factor)
    model.maximize(factor)
    return scale.most / STEPS


def _cover(model: cp_model.CpModel, mine: list[tuple[Any, int]], rate: float, factor: Any) -> None:
    """The replicas give the factor's part of a rate."""
    if rate <= 0:
        return
    step = rate / STEPS
    times = max(1, math.ceil(min(PRECISION / step, MOST_TIMES)))
    most = math.ceil(rate)
    given = sum(count * (min(each, most) * times) for count, each in mine)
    model.add(given >= math.floor(step * times) * factor)


Terms = list[tuple[Any, int]]
"""Counts of replicas, with what each gives."""


def _by_domain(instance: Instance, variables: Variables, need: Need) -> dict[int, Terms]:
    inside: dict[int, Terms] = {}
    for (index, k, item), count in variables.count.items():
        if instance.items[item].model == need.model:
            option = instance.groups[instance.group_of[index]].options[k]
            each = (count, instance.rate(item, option))
            inside.setdefault(need.domain_of[index], []).append(each)
    return inside


def _survive(
    model: cp_model.CpModel, inside: Mapping[int, Terms], rate: float, factor: Any
) -> None:
    """Without any one fault domain the factor's part of a rate is left."""
    for lost in inside:
        left = [term for domain, terms in inside.items() if domain != lost for term in terms]
        _cover(model, left, rate, factor)
