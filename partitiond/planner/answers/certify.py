"""Certifies what is proven of a plan, in its true figures rather than the integers."""

import math
from typing import Final

from partitiond.core.model.placement_rules import PRIORITY_FACTOR
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Certificate, Objective, Placement, PriorityProof, Status
from partitiond.core.profile.record import ProfileKind
from partitiond.planner.model.needs import LEAST
from partitiond.planner.model.solver_costs import (
    cost_of,
    goodput_of,
    smallest_share,
    true_bound,
    true_value,
)
from partitiond.planner.model.types import Instance, unlike
from partitiond.planner.pack.moves import moves_made, price_of_a_move, with_moves
from partitiond.planner.progress.answer import SolveAnswer

PROVEN: Final = 1e-6
"""Relative gap up to which only rounding is left."""
GRAIN: Final = 2e-8
"""Relative error of the integers' rates, and of sums of floats."""


def certify(
    instance: Instance,
    found: SolveAnswer,
    placements: tuple[Placement, ...],
    levels: dict[str, float],
    seconds: float,
) -> Certificate:
    """Return what is proven of the plan, for the objective that was solved for.

    Args:
        instance: the problem instance.
        found: the portfolio's answer.
        placements: the plan.
        levels: level of interference by device id.
        seconds: duration of the solve.
    """
    request, objective = instance.request, found.objective
    own = plan_value(instance, objective, placements, levels)
    own_bound, best = _bound(instance, found), _best(instance, found, own)
    price, moves = price_of_a_move(request, objective), moves_made(instance, placements)
    # Prices are not negative: a value no plan reaches without them, none reaches with them.
    value, bound = with_moves(objective, own, moves, price), own_bound
    gap = abs(bound - value) / max(abs(value), 1e-9)
    rates = rates_of(instance, placements, levels)
    classes = () if _counts_nothing(instance, found) else found.class_bounds
    by_priority = tuple(
        PriorityProof(
            priority,
            goodput_of(request.models, rates, priority),
            most * (1 + GRAIN) + _few(instance, priority) / PRIORITY_FACTOR**priority,
        )
        for priority, most in classes
    )
    proven = gap <= PROVEN and all(p.bound <= p.value * (1 + PROVEN) for p in by_priority)
    if objective is Objective.MAX_GOODPUT and found.packing.short_replicas():
        # The bound holds for plans that miss equally many of the least replicas. Only CP-SAT
        # proves that no plan misses fewer.
        proven = proven and found.status is Status.OPTIMAL
    kept = found.status if found.status is not Status.OPTIMAL else Status.FEASIBLE
    return Certificate(
        objective=objective,
        value=value,
        bound=bound,
        gap=gap,
        status=Status.OPTIMAL if proven else kept,
        method=found.method,
        seconds=seconds,
        baseline_one_model_per_device=_one_model_per_device(instance),
        best_value=best,
        moves=moves if price else 0,
        move_price=price,
        value_without_moves=own if price else None,
        bound_without_moves=own_bound if price else None,
        for_estimates=any(p.candidate.profile_kind is ProfileKind.ESTIMATED for p in placements),
        by_priority=by_priority,
        among=_among(instance, found),
    )


def _among(instance: Instance, found: SolveAnswer) -> str:
    """Describe the plans that the bound covers: for the most goodput, those that lack as few of the
    least replicas as the plan."""
    if found.objective is not Objective.MAX_GOODPUT:
        return ""
    if found.packing.short_replicas():
        return "with as many of the models' least replicas"
    if not any(need.min_replicas for need in instance.needs):
        return ""
    return "with the least number of replicas of every model that fits a device"


def plan_value(
    instance: Instance,
    objective: Objective,
    placements: tuple[Placement, ...],
    levels: dict[str, float],
) -> float:
    """Return the objective's value of a plan, from the plan's own figures.

    The unit is devices, price per hour, watts, weighted requests/s, or the smallest model's share.
    """
    request = instance.request
    if objective.is_cost:
        return cost_of(request, objective, placements)
    sums = rates_of(instance, placements, levels)
    if objective is Objective.MAX_GOODPUT:
        return goodput_of(request.models, sums)
    return smallest_share(request.models, sums)


def rates_of(
    instance: Instance, placements: tuple[Placement, ...], levels: dict[str, float]
) -> dict[str, float]:
    """Planned requests/s by model."""
    of = by_key((p.model, p.candidate.capacity_req_per_s / levels[p.device_id]) for p in placements)
    return {need.name: math.fsum(of[need.name]) for need in instance.needs}


def _bound(instance: Instance, found: SolveAnswer) -> float:
    """Return the bound. It is not clipped to the plan's value: a plan beyond it is a defect."""
    if found.objective.is_cost:
        return true_bound(instance.request, found.bound)
    if _counts_nothing(instance, found):
        return 0.0
    priorities = {need.priority for need in instance.needs}
    counted = found.objective is Objective.MAX_GOODPUT
    few = math.fsum(_few(instance, p) for p in priorities) if counted else 0.0
    return found.bound * (1 + GRAIN) + few


def _few(instance: Instance, priority: int) -> float:
    """Return the weighted requests/s by which bounds of a priority may be too low.

    The most that counts for a model is rounded down with its demand, by at most one unit, and
    tiny demands have few units.
    """
    mine = (n for n in instance.needs if n.priority == priority and 0 < n.rate < LEAST)
    return math.fsum(n.weight / n.units for n in mine)


def _counts_nothing(instance: Instance, found: SolveAnswer) -> bool:
    """Return whether the models that count under MAX_GOODPUT fit no device."""
    asked = any(m.demand.planned_req_per_s is not None for m in instance.request.models)
    rated = any(n.rated for n in instance.needs)
    return found.objective is Objective.MAX_GOODPUT and asked and not rated


def _best(instance: Instance, found: SolveAnswer, value: float) -> float | None:
    """Return the best value of any plan found; None if that is the plan's own value."""
    if found.best_value is None or found.status is Status.OPTIMAL:
        return None
    if _counts_nothing(instance, found):
        return None
    if found.objective.is_cost:
        best = true_value(instance.request, found.best_value)
        return best if best < value * (1 - PROVEN) else None
    return found.best_value if found.best_value > value * (1 + PROVEN) else None


def _one_model_per_device(instance: Instance) -> int:
    """Count the devices needed if no device served two models: one engine each, at its best."""
    best = {need.model: 0 for need in instance.needs}
    free = {
        item: option
        for group in unlike(instance.groups)
        for option, fit in zip(group.options, group.fits, strict=True)
        if option.level == 1.0
        for item in fit
    }
    for item, option in free.items():
        model = instance.items[item].model
        if model in best:
            best[model] = max(best[model], instance.rate(item, option))
    return sum(
        max(n.min_replicas, -(-n.rate // best[n.model]) if best[n.model] else 0)
        for n in instance.needs
    )
