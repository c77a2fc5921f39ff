"""Orders plans by priority, lexicographically: higher priorities count before all lower ones.

A class is the models of one priority that count under `max-goodput`. If two plans miss equally many
replicas of the least numbers, the better one gives the highest class more weighted requests/s. If
both plans give that class the same, within a millionth, the next class decides.

The searches compare single numbers. There a class has a factor so much larger than the lower
classes' that one replica of it outweighs them all (`needs.with_lifts`), as far as floats allow.
Proofs are made class by class: by CP-SAT on small instances, else by bounds on weighted sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.model.placement_rules import PRIORITY_FACTOR
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Status
from partitiond.planner.bounds.prices import bound_of
from partitiond.planner.exact import Exact, Stage
from partitiond.planner.model.types import RATE_SCALE, Instance, Need
from partitiond.planner.pack.members import EXACT, Member, member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import SolveMonitor

EQUAL: Final = 1e-6
"""Relative difference up to which two plans give a class the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Class:
    """Models of one priority.

    Attributes:
        needs: the needs of its models.
        factor: weight of one of its weighted requests/s in `Packing.goodput`.
    """

    priority: int
    needs: tuple[Need, ...]
    factor: float

    def value(self, packing: Packing) -> float:
        """Return the weighted requests/s that a packing gives the class, up to its demand."""
        return math.fsum(
            n.worth * (min(packing.rates[n.model], n.rate) if n.rated else packing.rates[n.model])
            for n in self.needs
        ) / (RATE_SCALE * self.factor)


def classes_of(instance: Instance) -> tuple[Class, ...]:
    """Return the classes that count, highest first; models without a rate if none has one."""
    rated = any(n.rated for n in instance.needs)
    found = by_key((need.priority, need) for need in instance.needs if need.rated == rated)
    return tuple(
        Class(priority, tuple(mine), PRIORITY_FACTOR**priority * mine[0].lift)
        for priority, mine in sorted(found.items(), reverse=True)
    )


def values_of(packing: Packing, classes: Sequence[Class] | None = None) -> tuple[float, ...]:
    """Return the weighted requests/s of each class, highest first."""
    return tuple(c.value(packing) for c in classes or classes_of(packing.instance))


def order(one: Sequence[float], other: Sequence[float]) -> int:
    """Return 1 if the first is better, -1 if the second is, 0 if no class gets more."""
    for a, b in zip(one, other, strict=True):
        if abs(a - b) > EQUAL * max(abs(a), abs(b)):
            return 1 if a > b else -1
    return 0


lexicographic = functools.cmp_to_key(order)
"""Sort key for the values of classes, for `max` and `sorted`."""


def goodput_key(one: Member) -> tuple[int, object, float]:
    """Return a sort key of an answer for the most goodput; larger is better."""
    packing = one.packing
    return (-packing.short_replicas(), lexicographic(values_of(packing)), packing.goodput())


def together(classes: Sequence[Class], values: Sequence[float]) -> float:
    """Combine the values of classes into one number; each counts a hundred times the one below."""
    pairs = zip(classes, values, strict=True)
    return math.fsum(float(PRIORITY_FACTOR) ** c.priority * v for c, v in pairs)


def meets(value: float, bound: float) -> bool:
    """Return whether a class gets as much as its bound allows."""
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
    """Bound what each class gets, highest first, in plans that are as good for higher classes.

    As good means: it gives each higher class at least its value in `values`, up to the first class
    whose value is not proven the best. So the best plan of all gives no class more than its bound.

    Args:
        instance: the problem instance.
        classes: its classes.
        values: what the plan gives each class.
        total: upper bound on `Packing.goodput`.
        exact: bounds from CP-SAT, by position in `classes`.
        late: True if no further bound is to be sought.
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
    """Return an upper bound on what any plan gives the class, whatever other classes get."""
    there = {n.model for n in mine.needs}
    # Rescaled to the class alone, so that the sums have the magnitude of its demand.
    needs = tuple(
        dataclasses.replace(n, lift=n.lift / mine.factor if n.model in there else 0.0)
        for n in instance.needs
    )
    bound = bound_of(dataclasses.replace(instance, needs=needs), as_cost=False)
    return math.inf if bound is None else bound


def _smallest(instance: Instance, mine: Class) -> float:
    """Return a lower bound on what the class gets if it gets anything at all."""
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
"""Runs CP-SAT from a packing, for a stage, in a share of its time."""


def exact_classes(
    classes: Sequence[Class], members: list[Member], bounds: dict[int, float], ask: Ask
) -> Exact:
    """Maximise each class in turn while higher classes keep what they have, until a class is not
    proven optimal.

    Args:
        classes: the classes, highest first.
        members: plans; new plans are appended.
        bounds: filled with what is proven of each class, by its position.
        ask: runs the solver.
    """
    best, status = max(members, key=goodput_key), Status.OPTIMAL
    kept: list[tuple[frozenset[int], float]] = []
    for k, mine in enumerate(classes):
        models = frozenset(n.model for n in mine.needs)
        found = ask(best.packing, Stage(models, tuple(kept)), 1 / (len(classes) - k))
        if found is None or found.packing is None:
            return Exact(Status.OUT_OF_TIME, None, None)
        members.append(member(EXACT, found.packing))
        best = max((members[-1], best), key=goodput_key)
        if found.bound is not None:
            bounds[k] = found.bound / mine.factor
        status = found.status
        if status is not Status.OPTIMAL:
            break
        kept.append((models, mine.factor * mine.value(found.packing) * (1 - EQUAL)))
    return Exact(status, best.packing, None)


def class_by_class(
    watch: SolveMonitor,
    classes: Sequence[Class],
    members: list[Member],
    found: SolveAnswer,
    exact: dict[int, float],
) -> SolveAnswer:
    """Return the answer with the bound of each class; optimal only if all classes are."""
    best = max(members, key=goodput_key).packing
    values, own = values_of(best, classes), values_of(found.packing, classes)
    # What CP-SAT proves of a class holds for plans as good for those above as the best one: a plan
    # that moves less may give one of them less, and a lower class more than that.
    behind = next((k for k, c in enumerate(zip(own, values, strict=True)) if not meets(*c)), None)
    known = exact if behind is None else {k: b for k, b in exact.items() if k <= behind}
    bounds = bounds_of(watch.instance, classes, own, found.bound, known, late=watch.finish())
    full = not best.short_replicas() or found.status is Status.OPTIMAL
    optimal = full and order(own, values) >= 0
    optimal = optimal and all(meets(v, b) for v, b in zip(own, bounds, strict=True))
    return dataclasses.replace(
        found,
        value=together(classes, own),
        bound=together(classes, bounds),
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        best_value=together(classes, values),
        class_bounds=tuple((c.priority, b) for c, b in zip(classes, bounds, strict=True)),
    )
