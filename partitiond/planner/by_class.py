"""The most goodput class by class: one priority after the other, the highest first."""

import dataclasses
from collections.abc import Callable, Sequence

from partitiond.core.plan import Status
from partitiond.planner.exact import Exact, Stage
from partitiond.planner.found import Found
from partitiond.planner.members import Member, member
from partitiond.planner.nearest import goodput_key
from partitiond.planner.packing import Packing
from partitiond.planner.priorities import (
    EQUAL,
    Class,
    bounds_of,
    lexicographic,
    meets,
    order,
    together,
    values_of,
)
from partitiond.planner.progress import Watch

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
