"""Objectives by name: what devices cost in the solver's integers, and what a plan is worth.

Inside, every cost objective is one number for each device and one for each replica, in
1 / PRICE_SCALE, rounded down. So whatever bounds their sum bounds the true cost. What a
certificate says is computed here from the plan's own figures (`plan_value`), and a bound on the
integers becomes one on those figures (`true_bound`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from partitiond.core.costs import device_cost, replica_watts
from partitiond.core.errors import SpecError
from partitiond.core.hardware import Device
from partitiond.core.plan import Candidate, ModelDemand, Objective, Placement
from partitiond.planner.types import PRICE_SCALE, PlanRequest

TIES: Final = 0.5
"""What the ties of all devices sum to at most, in devices: a plan with one device fewer always
costs less."""
LARGEST_TIE: Final = 0.001
"""The tie of the dearest device: so much of a bound on the number of devices is given away."""
EPSILON: Final = 1e-6
_WATTS_HINT: Final = {
    Objective.MIN_POWER: "max_watts",
    Objective.MIN_ENERGY: "idle_watts or max_watts",
}


def device_units(request: PlanRequest) -> tuple[int, ...]:
    """What using each device costs, in 1 / PRICE_SCALE, rounded down.

    Under MIN_DEVICES a device costs 1 and a trifle that grows with its price, so that of plans
    with as many devices the cheapest costs least.

    Raises:
        SpecError: a device's power is not known and the objective needs it.
    """
    if request.objective is Objective.MIN_DEVICES:
        return tuple(PRICE_SCALE + tie for tie in _ties(request.devices))
    costs = [device_cost(device, request.objective) for device in request.devices]
    unknown = [d.id for d, cost in zip(request.devices, costs, strict=True) if cost is None]
    if unknown:
        raise SpecError(
            f"{request.objective} needs the power of every device, and that of "
            f"{', '.join(unknown[:3])}{' and others' if len(unknown) > 3 else ''} is not known.",
            hint=f"Give {_WATTS_HINT.get(request.objective, 'it')} for them in the fleet file or "
            "the settings, or choose min-devices or min-price.",
        )
    return tuple(math.floor((cost or 0.0) * PRICE_SCALE + EPSILON) for cost in costs)


def charges_replicas(request: PlanRequest) -> bool:
    """Whether each replica adds to the cost, not only its device."""
    return request.objective is Objective.MIN_ENERGY


def item_units(request: PlanRequest, demand: ModelDemand, candidate: Candidate) -> int:
    """What a replica costs beyond its device, in 1 / PRICE_SCALE, rounded down: its energy."""
    if not charges_replicas(request):
        return 0
    return math.floor(charged_watts(candidate, demand) * PRICE_SCALE + EPSILON)


def _ties(devices: tuple[Device, ...]) -> list[int]:
    """A trifle by price, 0 for the cheapest."""
    prices = [device.price_per_hour for device in devices]
    low, high = min(prices, default=0.0), max(prices, default=0.0)
    if high <= low:
        return [0] * len(devices)
    most = PRICE_SCALE * min(LARGEST_TIE, TIES / len(devices))
    return [math.floor(most * (price - low) / (high - low)) for price in prices]


def usable_request(request: PlanRequest) -> PlanRequest:
    """The request with the candidates that its objective can count with.

    Under MIN_ENERGY a candidate whose draw is not known has no cost: it is left out, and a model
    without any other is unplaced with that reason.
    """
    if not charges_replicas(request):
        return request
    return dataclasses.replace(request, models=tuple(_with_watts(m) for m in request.models))


def _with_watts(demand: ModelDemand) -> ModelDemand:
    known = tuple(c for c in demand.candidates if c.watts is not None)
    if len(known) == len(demand.candidates):
        return demand
    reason = demand.reason or "none of its profiles says what a replica draws, as min-energy needs"
    return dataclasses.replace(demand, candidates=known, reason=reason)


def true_bound(request: PlanRequest, bound: float) -> float:
    """What a bound on the integers' cost, as a number, says of the objective's own value.

    Under MIN_DEVICES n devices cost at most n (1 + the largest tie), so that n is at least the
    bound over that, and whole. Else it is the bound: integers are rounded down.
    """
    if request.objective is not Objective.MIN_DEVICES or not request.devices:
        return bound
    dearest = max(device_units(request)) / PRICE_SCALE
    return float(math.ceil(bound / dearest - EPSILON * max(1.0, bound)))


def true_priced_bound(request: PlanRequest, bound: float) -> float:
    """The same of a bound on the integers' cost with the price of moves.

    Under MIN_DEVICES n devices and m moves cost at most n (1 + the largest tie) + m prices, so
    that n + m prices is at least the bound over that; and it is a multiple of the price, where
    that divides a device.
    """
    if request.objective is not Objective.MIN_DEVICES or not request.devices:
        return bound
    least = bound / (max(device_units(request)) / PRICE_SCALE)
    grain = request.move_price
    if grain <= 0 or abs(1 / grain - round(1 / grain)) > EPSILON:
        return least
    return grain * math.ceil(least / grain - EPSILON * max(1.0, least / grain))


def true_value(request: PlanRequest, value: float) -> float:
    """The objective's own value of a packing that costs `value` in the integers."""
    whole = request.objective is Objective.MIN_DEVICES
    return float(math.floor(value + EPSILON)) if whole else value


def scale_of(
    objective: Objective,
    models: tuple[ModelDemand, ...],
    rates: Mapping[str, float],
    left: Mapping[str, float] | None = None,
) -> float:
    """The value of MAX_MIN and MAX_HEADROOM: the smallest share of any model.

    A model's share is its planned requests/s over its demand; under MAX_MIN it is at most 1, and
    over the model's weight (priority applied). Where no model has a rate, the requests/s take the
    place of the share; else models without a rate are no part of it. Under MAX_HEADROOM, what of a
    demand has to survive a loss grows with it: its share is what is left without the fault domain
    that gives most, over what has to be left.

    Args:
        objective: one of the two.
        models: what is wanted.
        rates: planned requests/s of every model that fits any device at all; the others are
            listed as unplaced, and left out.
        left: what is left of them when the worst fault domain is lost, of models that have to
            survive that.
    """
    there = [m for m in models if m.model in rates]
    any_rated = any(m.demand.planned_req_per_s is not None for m in there)
    found = []
    for m in there:
        planned = m.demand.planned_req_per_s
        if planned is None and any_rated:
            continue
        share = rates[m.model] / (1.0 if planned is None else planned)
        if objective is Objective.MAX_MIN:
            share = (share if planned is None else min(1.0, share)) / m.planned_weight
        found.append(share)
        if objective is Objective.MAX_HEADROOM and planned and m.model in (left or {}):
            found.append((left or {})[m.model] / (planned * m.rules.survive_share))
    return min(found, default=0.0)


def goodput_of(
    models: tuple[ModelDemand, ...], rates: Mapping[str, float], priority: int | None = None
) -> float:
    """Weighted planned requests/s; models without a rate count only where none has one.

    Args:
        models: what is wanted.
        rates: planned requests/s by model.
        priority: of the models that count, by their weight alone; None for all, each priority
            counting a hundred times the one below.
    """
    rated = [m for m in models if m.demand.planned_req_per_s is not None]
    return math.fsum(
        (m.planned_weight if priority is None else m.demand.weight)
        * min(rates.get(m.model, 0.0), m.demand.planned_req_per_s or math.inf)
        for m in rated or models
        if priority is None or m.rules.priority == priority
    )


def cost_of(
    request: PlanRequest,
    objective: Objective,
    placements: tuple[Placement, ...],
) -> float:
    """What a plan costs under a cost objective, from its true figures.

    Args:
        request: with the devices.
        objective: one that is a cost.
        placements: the plan.
    """
    used = {p.device_id for p in placements}
    costs = [device_cost(d, objective) or 0.0 for d in request.devices if d.id in used]
    if objective is Objective.MIN_ENERGY:
        by_name = {m.model: m for m in request.models}
        costs += [charged_watts(p.candidate, by_name[p.model]) for p in placements]
    return math.fsum(costs)


def charged_watts(candidate: Candidate, demand: ModelDemand) -> float:
    """What a replica is charged for under MIN_ENERGY; 0 where its draw is not known."""
    if candidate.watts is None:
        return 0.0
    return replica_watts(
        candidate.watts,
        candidate.capacity_req_per_s,
        demand.demand.planned_req_per_s,
        demand.min_replicas,
    )


def drawn_watts(demand: ModelDemand, mine: list[tuple[Candidate, float]]) -> float | None:
    """What a model's replicas draw beyond the idle devices at its planned rate, in watts.

    The rate is routed in proportion to capacity, so every replica is busy for the same share of
    the time. None where a replica's draw is not known, or there is no replica.

    Args:
        demand: of the model.
        mine: its replicas' candidates, each with the level of interference of its device.
    """
    planned = demand.demand.planned_req_per_s
    capacity = math.fsum(c.capacity_req_per_s / level for c, level in mine)
    if not mine or any(c.watts is None for c, _ in mine) or capacity <= 0:
        return None
    busy = 1.0 if planned is None else min(1.0, planned / capacity)
    return busy * math.fsum((c.watts or 0.0) / level for c, level in mine)
