"""Priorities are lexicographic: what a higher one gets counts before all that lower ones get.

The models that count under `max-goodput`, by priority, are classes. Of two plans that meet as many
least numbers of replicas, the better one gives the highest class more weighted requests/s; where
both give it as much, within a millionth, the next class decides.

The searches know one number, so there a class counts so many times more than those below that a
single replica of it outweighs them all (`needs.with_lifts`), as far as floats reach. What is proven
is proven class by class: by CP-SAT on small instances, by bounds on weighted sums elsewhere.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.placement_rules import PRIORITY_FACTOR
from partitiond.planner.packing import Packing
from partitiond.planner.prices import bound_of
from partitiond.planner.types import RATE_SCALE, Instance, Need

EQUAL: Final = 1e-6
"""Relative difference up to which two plans give a class as much."""


@dataclasses.dataclass(frozen=True, slots=True)
class Class:
    """Models of one priority.

    Attributes:
        needs: of its models.
        factor: what one of its weighted requests/s counts in `Packing.goodput`.
    """

    priority: int
    needs: tuple[Need, ...]
    factor: float

    def value(self, packing: Packing) -> float:
        """Weighted requests/s that it gets, up to its demand."""
        return math.fsum(
            n.worth * (min(packing.rates[n.model], n.rate) if n.rated else packing.rates[n.model])
            for n in self.needs
        ) / (RATE_SCALE * self.factor)


def classes_of(instance: Instance) -> tuple[Class, ...]:
    """The classes that count, the highest first; models without a rate where none has one."""
    rated = any(n.rated for n in instance.needs)
    found: dict[int, list[Need]] = {}
    for need in instance.needs:
        if need.rated == rated:
            found.setdefault(need.priority, []).append(need)
    return tuple(
        Class(priority, tuple(mine), PRIORITY_FACTOR**priority * mine[0].lift)
        for priority, mine in sorted(found.items(), reverse=True)
    )


def values_of(packing: Packing, classes: Sequence[Class] | None = None) -> tuple[float, ...]:
    """Weighted requests/s of each class, the highest first."""
    return tuple(c.value(packing) for c in classes or classes_of(packing.instance))


def order(one: Sequence[float], other: Sequence[float]) -> int:
    """1 where the first is better, -1 where the second is, 0 where no class gets more."""
    for a, b in zip(one, other, strict=True):
        if abs(a - b) > EQUAL * max(abs(a), abs(b)):
            return 1 if a > b else -1
    return 0


lexicographic = functools.cmp_to_key(order)
"""Key of values of classes, for `max` and `sorted`."""


def together(classes: Sequence[Class], values: Sequence[float]) -> float:
    """One number for the values of classes: each counts a hundred times the one below."""
    pairs = zip(classes, values, strict=True)
    return math.fsum(float(PRIORITY_FACTOR) ** c.priority * v for c, v in pairs)


def meets(value: float, bound: float) -> bool:
    """Whether a class gets all that it can get."""
    return bound <= value * (1 + EQUAL)


def bounds_of(
    instance: Instance,
    classes: Sequence[Class],
    values: Sequence[float],
    total: float,
    exact: Mapping[int, float],
    *,
    late: Callable[[], bool] = lambda: False,
) -> tuple[float, ...]:
    """No plan that is as good for the higher classes gives a class more, the highest first.

    As good means: it gives the classes above as much as the plan does, up to the first one of which
    the plan is not proven the best. So the best plan of all never gives a class more than this.

    Args:
        instance: the question.
        classes: its classes.
        values: what the plan gives them.
        total: no plan has a larger `Packing.goodput`.
        exact: bounds of CP-SAT, by position in `classes`.
        late: says when no further bound is to be sought.
    """
    found: list[float] = []
    held, proven = 0.0, True
    for k, (mine, value) in enumerate(zip(classes, values, strict=True)):
        options = [(total - held) / mine.factor, exact.get(k, math.inf)]
        if mine.needs[0].rated:
            asked = math.fsum(n.worth * n.rate for n in mine.needs) / (RATE_SCALE * mine.factor)
            options.append(asked)
        if not (late() or any(meets(value, b) for b in options)):
            options.append(_alone(instance, mine))
        bound = max(0.0, min(options))
        found.append(0.0 if bound < _smallest(instance, mine) else bound)
        if proven:
            held += mine.factor * value * (1 - EQUAL)
        proven = proven and meets(value, found[-1])
    return tuple(found)


def _alone(instance: Instance, mine: Class) -> float:
    """No plan gives the class more, whatever the others get."""
    there = {n.model for n in mine.needs}
    # A factor of its own, so that the sums are of the size of what is asked.
    needs = tuple(
        dataclasses.replace(n, lift=n.lift / mine.factor if n.model in there else 0.0)
        for n in instance.needs
    )
    bound = bound_of(dataclasses.replace(instance, needs=needs), as_cost=False)
    return math.inf if bound is None else bound


def _smallest(instance: Instance, mine: Class) -> float:
    """Less than this the class gets only where it gets nothing."""
    rates = {n.model: n for n in mine.needs}
    levels = max((o.level for g in instance.groups for o in g.options), default=1.0)
    gains = [
        rates[it.model].worth
        * min(it.candidate.capacity_req_per_s * it.units / levels, rates[it.model].rate or math.inf)
        for it in instance.items
        if it.model in rates
    ]
    return min(gains, default=0.0) / (RATE_SCALE * mine.factor) * (1 - EQUAL)
