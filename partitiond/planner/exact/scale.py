"""Maximises the largest common factor: `max-min` and `max-headroom` in one variable."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from ortools.sat.python import cp_model

from partitiond.planner.exact.demands import add_numbers
from partitiond.planner.exact.variables import Terms, Variables, by_model, left_if_lost
from partitiond.planner.model.types import Instance

STEPS: Final = 10_000_000
"""Number of steps into which the factor is cut; bounds are proven to one step."""
MOST_TIMES: Final = 1 << 40
"""Limit for rates close to 0: CP-SAT takes 64-bit integers."""
PRECISION: Final = 10_000_000
"""Rates per step are rounded down to one part in this many, so that the optimum is a bound."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """The targets of the factor.

    Attributes:
        target: rate of each model at factor 1, in 1 / RATE_SCALE; models not in it have none.
        most: upper bound on the factor.
        survive: rate of each model, at factor 1, that must be left when a fault domain is lost.
    """

    target: Mapping[int, float]
    most: float
    survive: Mapping[int, float]


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
        kept = scale.survive.get(need.model) if need.domain_of else None
        for left in left_if_lost(instance, variables, need) if kept else ():
            _cover(model, left, (kept or 0.0) * scale.most, factor)
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
