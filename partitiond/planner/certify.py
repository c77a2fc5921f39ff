"""The certificate: what is proven of a plan, in its true figures rather than the integers."""

import math

from partitiond.core.plan import Certificate, Objective, Placement, Status
from partitiond.core.profile import ProfileKind
from partitiond.planner.costs import (
    cost_of,
    goodput_of,
    scale_of,
    true_bound,
    true_priced_bound,
    true_value,
)
from partitiond.planner.found import Found
from partitiond.planner.instance import Instance
from partitiond.planner.moves import moves_made, price_of_a_move, with_moves

PROVEN = 1e-6
"""Relative gap up to which rounding alone is what is left of it."""


def certify(
    instance: Instance,
    found: Found,
    placements: tuple[Placement, ...],
    levels: dict[str, float],
    seconds: float,
) -> Certificate:
    """What is proven of the plan at the level of the objective that was solved for.

    Args:
        instance: the question.
        found: the portfolio's answer.
        placements: the plan.
        levels: level of interference by device id.
        seconds: the solve took.
    """
    own = plan_value(instance, found.objective, placements, levels)
    own_bound, best = _bound(instance, found, own), _best(instance, found, own)
    price, moves = price_of_a_move(instance.request, found.objective), 0
    value, bound = own, own_bound
    if price:
        moves = moves_made(instance, placements)
        value = with_moves(found.objective, own, moves, price)
        # Prices are not negative: what no plan reaches without them none reaches with them.
        bound = _priced_bound(instance, found, own_bound, value)
    gap = abs(bound - value) / max(abs(value), 1e-9)
    proven = gap <= PROVEN
    kept = found.status if found.status is not Status.OPTIMAL else Status.FEASIBLE
    return Certificate(
        objective=found.objective,
        value=value,
        bound=bound,
        gap=gap,
        status=Status.OPTIMAL if proven else kept,
        method=found.method,
        seconds=seconds,
        baseline_one_model_per_device=_one_model_per_device(instance),
        baseline_first_fit=_first_fit(instance, found),
        best_value=best,
        moves=moves,
        move_price=price,
        value_without_moves=own if price else None,
        bound_without_moves=own_bound if price else None,
        for_estimates=any(p.candidate.profile_kind is ProfileKind.ESTIMATED for p in placements),
    )


def _priced_bound(instance: Instance, found: Found, own_bound: float, value: float) -> float:
    if found.priced_bound is None or not found.objective.is_cost:
        return own_bound
    proven = true_priced_bound(instance.request, found.priced_bound)
    return min(max(own_bound, proven), value)


def plan_value(
    instance: Instance,
    objective: Objective,
    placements: tuple[Placement, ...],
    levels: dict[str, float],
) -> float:
    """The objective's value of a plan, from its own figures.

    Devices, price per hour or watts; weighted requests/s; the smallest share of any model.
    """
    request = instance.request
    if objective.is_cost:
        return cost_of(request, objective, placements)
    rates = {need.name: [0.0] for need in instance.needs}
    for p in placements:
        rates[p.model].append(p.candidate.capacity_req_per_s / levels[p.device_id])
    sums = {name: math.fsum(parts) for name, parts in rates.items()}
    if objective is Objective.MAX_GOODPUT:
        return goodput_of(request.models, sums)
    return scale_of(objective, request.models, sums, _left(instance, sums, placements, levels))


def _left(
    instance: Instance,
    rates: dict[str, float],
    placements: tuple[Placement, ...],
    levels: dict[str, float],
) -> dict[str, float]:
    """Requests/s without the fault domain that gives most, of models that have to survive it."""
    number = {device.id: i for i, device in enumerate(instance.request.devices)}
    found = {}
    for need in (n for n in instance.needs if n.survive_rate):
        given: dict[int, float] = {}
        for p in (p for p in placements if p.model == need.name):
            domain = need.domain_of[number[p.device_id]]
            rate = p.candidate.capacity_req_per_s / levels[p.device_id]
            given[domain] = given.get(domain, 0.0) + rate
        found[need.name] = rates[need.name] - max(given.values(), default=0.0)
    return found


def _bound(instance: Instance, found: Found, value: float) -> float:
    """No plan is better; at most the plan's value itself where it is proven optimal."""
    if found.status is Status.OPTIMAL:
        return value
    if found.objective.is_cost:
        return min(true_bound(instance.request, found.bound), value)
    # The solver rounds every rate down; the certificate speaks of the rates themselves.
    return max(found.bound, value)


def _first_fit(instance: Instance, found: Found) -> float | None:
    if found.first_fit is None or not found.objective.is_cost:
        return found.first_fit
    return true_value(instance.request, found.first_fit)


def _best(instance: Instance, found: Found, value: float) -> float | None:
    """The best value of any plan found; None where it is the plan's own."""
    if found.best_value is None or found.status is Status.OPTIMAL:
        return None
    if found.objective.is_cost:
        best = true_value(instance.request, found.best_value)
        return best if best < value * (1 - PROVEN) else None
    return found.best_value if found.best_value > value * (1 + PROVEN) else None


def _one_model_per_device(instance: Instance) -> int:
    """Devices if no device served two models: one engine on each, at its best."""
    best = {need.model: 0 for need in instance.needs}
    for group in instance.groups:
        for option, fit in zip(group.options, group.fits, strict=True):
            for item in fit if option.level == 1.0 else ():
                model = instance.items[item].model
                if model in best:
                    best[model] = max(best[model], instance.rate(item, option))
    return sum(
        max(n.min_replicas, -(-n.rate // best[n.model]) if best[n.model] else 0)
        for n in instance.needs
    )
