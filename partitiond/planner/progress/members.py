"""Holds the portfolio's answer and its members, each with the method that found it, tidied."""

import collections
import dataclasses
from typing import Final

from partitiond.core.plan.choices import Against
from partitiond.core.plan.kinds import OnKinds
from partitiond.core.plan.record import Objective, Status
from partitiond.planner.pack.packing import Packing, may_leave
from partitiond.planner.pack.running import staying_items

IMPOSSIBLE = (
    "Serving everything is proven impossible on these devices; this plan is for the most goodput."
)
NOT_FOUND = (
    "No plan that serves everything was found in the time given, and it is not proven that there "
    "is none; this plan is for the most goodput."
)
"""Either may be in the explanation of a plan that fell back and leaves something out."""

EPSILON: Final = 1e-6
KEPT: Final = "kept what runs"
EXACT_WITH_MOVES: Final = "exact with moves (CP-SAT)"


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One answer, and the name of the method that found it."""

    name: str
    packing: Packing


def rank(packing: Packing, by_cost: bool) -> tuple[float, ...]:
    """Return a sort key of a packing, by cost or for goodput; less is better."""
    lacking = len(packing.lacking())
    if by_cost:
        return (lacking, packing.cost_units())
    return (packing.short_replicas(), -packing.goodput(), lacking)


def fullness(packing: Packing, index: int) -> float:
    """Return the sum of the shares of a device's memory and of its SMs that are taken."""
    load, group = packing.loads[index], packing.group(index)
    return load.memory / max(1, group.memory_bytes) + load.sm / 100


def member(name: str, packing: Packing) -> Member:
    """Return a packing as a member: without surplus, every device at the lowest level it allows."""
    replicas = -1
    while replicas != sum(packing.counts.values()):
        replicas = sum(packing.counts.values())
        packing.settle()
        drop_surplus(packing, rated_only=True)
    packing.settle()
    return Member(name, packing)


def drop_surplus(packing: Packing, *, rated_only: bool = False) -> None:
    """Remove replicas that no demand and no least number needs, the largest first.

    No running replica is removed in favour of one that does not run.
    """
    instance = packing.instance
    needs = {need.model: need for need in instance.needs}
    runs = collections.Counter((index, item) for index, item, _ in staying_items(instance))
    placed, fresh = list[tuple[bool, int, int, int]](), collections.Counter[int]()
    for index, load in enumerate(packing.loads):
        for item in load.items:
            stays = runs[index, item] > 0
            runs[index, item] -= stays
            placed.append((stays, -instance.items[item].memory_bytes, index, item))
            if not stays:
                fresh[instance.items[item].model] += instance.rate(item, packing.option(index))
    for stays, _, index, item in sorted(placed):
        need = needs[instance.items[item].model]
        rate = instance.rate(item, packing.option(index))
        left = packing.rates[need.model] - rate - (fresh[need.model] if stays else 0)
        if rated_only and not need.rated:
            continue
        few = packing.counts[need.model] - 1 < need.min_replicas
        if not few and left >= need.rate and may_leave(packing, index, item):
            packing.remove(index, item)
            fresh[need.model] -= 0 if stays else rate


@dataclasses.dataclass(frozen=True, slots=True)
class SeenPlan:
    """A plan that could have been chosen, with its value and its moves.

    Attributes:
        value: the value without the price of moves, in the objective's own unit.
        moves: number of moves as `moves.count_of_moves` counts them.
        against: the objection to the plan apart from its moves.
    """

    packing: Packing
    value: float
    moves: int
    against: Against | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SolveAnswer:
    """The portfolio's answer.

    Attributes:
        packing: the plan.
        objective: the objective that `value` and `bound` belong to.
        proven_impossible: for a fallback from a cost objective: True if serving everything is
            proven impossible, False if it was not found in time; None if this is no fallback.
        first_fit: the objective's value under first-fit decreasing; None if that fails.
        best_value: the best value of any member; the plan may be worse in order to move less.
        compile_seconds: seconds spent on compiling the search first, once on a machine.
        priced_bound: lower bound on the cost including the price of moves, in the unit of `bound`;
            None if nothing better than `bound` is proven.
        seen: if something runs, the plans that could have been chosen: none of them is worse than
            another one and moves more.
        elsewhere: the next best plan on other kinds of device; None if none was found.
        class_bounds: if models with a priority other than 0 count, each priority with the most
            weighted requests/s that the best plan gives it (`priorities.bounds_of`).

    `value`, `bound`, `status` and `best_value` exclude the price of moves.
    """

    packing: Packing
    objective: Objective
    value: float
    bound: float
    status: Status
    method: str
    proven_impossible: bool | None = None
    first_fit: float | None = None
    best_value: float | None = None
    compile_seconds: float = 0.0
    priced_bound: float | None = None
    seen: tuple[SeenPlan, ...] = ()
    elsewhere: OnKinds | None = None
    class_bounds: tuple[tuple[int, float], ...] = ()
