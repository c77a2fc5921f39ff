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
from partitiond.core.plan import Status
from partitiond.planner.exact import Exact, Stage
from partitiond.planner.found import Found
from partitiond.planner.members import Member, member
from partitiond.planner.packing import Packing
from partitiond.planner.prices import bound_of
from partitiond.planner.progress import Watch
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


def goodput_key(one: Member) -> tuple[int, object, float]:
    """What is better of two answers for the most goodput: larger."""
    packing = one.packing
    return (-packing.short_replicas(), lexicographic(values_of(packing)), packing.goodput())


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


Ask = Callable[[Packing, Stage, float], Exact | None]
"""CP-SAT from a packing, for a stage, in a share of its time."""


def exact_classes(
    classes: Sequence[Class], members: list[Member], bounds: dict[int, float], ask: Ask
) -> Exact:
    """Asks for each class what it gets while those above keep what they have, until one of them is
    not proven.

    Args:
        classes: the highest first.
        members: plans; what is found is added.
        bounds: what is proven of a class is added, by its position.
        ask: the solver.
    """
    best, status = max(members, key=goodput_key).packing, Status.OPTIMAL
    kept: list[tuple[frozenset[int], float]] = []
    for k, mine in enumerate(classes):
        models = frozenset(n.model for n in mine.needs)
        found = ask(best, Stage(models, tuple(kept)), 1 / (len(classes) - k))
        if found is None or found.packing is None:
            return Exact(Status.OUT_OF_TIME, None, None)
        members.append(member("exact (CP-SAT)", found.packing))
        best = max((members[-1].packing, best), key=lambda p: lexicographic(values_of(p)))
        if found.bound is not None:
            bounds[k] = found.bound / mine.factor
        status = found.status
        if status is not Status.OPTIMAL:
            break
        kept.append((models, mine.factor * mine.value(found.packing) * (1 - EQUAL)))
    return Exact(status, best, None)


def class_by_class(
    watch: Watch,
    classes: Sequence[Class],
    members: list[Member],
    found: Found,
    exact: dict[int, float],
) -> Found:
    """The answer with what is proven of each class: optimal where all of them are."""
    best = max(members, key=goodput_key).packing
    values, own = values_of(best, classes), values_of(found.packing, classes)
    bounds = bounds_of(watch.instance, classes, values, found.bound, exact, late=watch.finish())
    optimal = not best.short_replicas() and order(own, values) >= 0
    optimal = optimal and all(meets(v, b) for v, b in zip(own, bounds, strict=True))
    return dataclasses.replace(
        found,
        value=together(classes, own),
        bound=together(classes, bounds),
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        first_fit=None,
        best_value=together(classes, values),
        class_bounds=tuple((c.priority, b) for c, b in zip(classes, bounds, strict=True)),
    )
