"""Defines the cost of each objective in the solver's integers, and what a plan is worth.

Internally every cost objective is one number for each device and one for each replica, in
1 / PRICE_SCALE, rounded down. A bound on the sum of these numbers therefore bounds the true cost.
A certificate's values are computed here from the plan's own figures (`plan_value`), and a bound
on the integers is turned into a bound on those figures (`true_bound`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.costs import device_cost, replica_watts
from partitiond.core.plan.record import Candidate, ModelDemand, Objective, Placement
from partitiond.planner.model.types import PRICE_SCALE, PlanRequest

TIES: Final = 0.5
"""Limit of the sum of all devices' ties, in devices: a plan with one device fewer always costs
less. Chosen."""
LARGEST_TIE: Final = 0.001
"""The most expensive device's tie; a bound on the number of devices loses at most this. Chosen."""
EPSILON: Final = 1e-6


def device_units(request: PlanRequest) -> tuple[int, ...]:
    """Return the cost of using each device, in 1 / PRICE_SCALE, rounded down.

    Under MIN_DEVICES a device costs 1 plus a tiny amount that grows with its price, so that among
    plans with the same number of devices the cheapest one costs least.

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
            hint="Give idle_watts or max_watts for them in the fleet file or the settings, or "
            "choose min-devices or min-price.",
        )
    return tuple(math.floor((cost or 0.0) * PRICE_SCALE + EPSILON) for cost in costs)


def charges_replicas(request: PlanRequest) -> bool:
    """Return whether each replica adds to the cost, in addition to its device."""
    return request.objective is Objective.MIN_ENERGY


def item_units(demand: ModelDemand, candidate: Candidate) -> int:
    """Return a replica's cost beyond its device (its energy), in 1 / PRICE_SCALE, rounded down."""
    return math.floor(charged_watts(candidate, demand) * PRICE_SCALE + EPSILON)


def _ties(devices: tuple[Device, ...]) -> list[int]:
    """Return a tiny amount for each device that grows with its price; 0 for the cheapest."""
    prices = [device.price_per_hour for device in devices]
    low, high = min(prices, default=0.0), max(prices, default=0.0)
    if high <= low:
        return [0] * len(devices)
    most = PRICE_SCALE * min(LARGEST_TIE, TIES / len(devices))
    return [math.floor(most * (price - low) / (high - low)) for price in prices]


def usable_request(request: PlanRequest) -> PlanRequest:
    """Return the request with only the candidates whose cost the objective can compute.

    Under MIN_ENERGY a candidate with an unknown power draw has no cost and is left out. A model
    that has no other candidate is unplaced, with that reason.
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
    """Convert a bound on the integers' cost into a bound on the objective's own value.

    Under MIN_DEVICES n devices cost at most n (1 + the largest tie), so n is at least the bound
    divided by (1 + the largest tie), rounded up. Otherwise the bound holds unchanged, because the
    integers are rounded down.
    """
    if request.objective is not Objective.MIN_DEVICES or not request.devices:
        return bound
    dearest = max(device_units(request)) / PRICE_SCALE
    return float(math.ceil(bound / dearest - EPSILON * max(1.0, bound)))


def true_value(request: PlanRequest, value: float) -> float:
    """Return the objective's own value of a packing that costs `value` in the integers."""
    whole = request.objective is Objective.MIN_DEVICES
    return float(math.floor(value + EPSILON)) if whole else value


def smallest_share(models: tuple[ModelDemand, ...], rates: Mapping[str, float]) -> float:
    """Return the value of MAX_MIN: the smallest share of any model.

    A model's share is its planned requests/s over its demand, at most 1, divided by the model's
    weight (priority applied). If no model has a rate, the requests/s replace the share; otherwise
    models without a rate are ignored.

    Args:
        models: the models that are wanted.
        rates: planned requests/s of every model that fits some device; the other models are
            listed as unplaced, and left out.
    """
    there = [m for m in models if m.model in rates]
    any_rated = any(m.demand.planned_req_per_s is not None for m in there)
    found = []
    for m in there:
        planned = m.demand.planned_req_per_s
        if planned is None and any_rated:
            continue
        share = rates[m.model] if planned is None else min(1.0, rates[m.model] / planned)
        found.append(share / m.planned_weight)
    return min(found, default=0.0)


def goodput_of(
    models: tuple[ModelDemand, ...], rates: Mapping[str, float], priority: int | None = None
) -> float:
    """Return weighted planned requests/s; models without a rate count only if no model has one.

    Args:
        models: the models that are wanted.
        rates: planned requests/s by model.
        priority: only models of this priority count, by their weight alone. None: all models
            count, each priority a hundred times the one below.
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
    """Return a plan's cost under a cost objective, from its true figures.

    Args:
        request: the request with the devices.
        objective: a cost objective.
        placements: the plan.
    """
    used = {p.device_id for p in placements}
    costs = [device_cost(d, objective) or 0.0 for d in request.devices if d.id in used]
    if objective is Objective.MIN_ENERGY:
        by_name = {m.model: m for m in request.models}
        costs += [charged_watts(p.candidate, by_name[p.model]) for p in placements]
    return math.fsum(costs)


def charged_watts(candidate: Candidate, demand: ModelDemand) -> float:
    """Return the watts charged for a replica under MIN_ENERGY; 0 if its draw is not known."""
    if candidate.watts is None:
        return 0.0
    return replica_watts(
        candidate.watts,
        candidate.capacity_req_per_s,
        demand.demand.planned_req_per_s,
        demand.min_replicas,
    )


def drawn_watts(demand: ModelDemand, mine: list[tuple[Candidate, float]]) -> float | None:
    """Return the watts a model's replicas draw beyond the idle devices at its planned rate.

    The rate is routed in proportion to capacity, so every replica is busy for the same share of
    the time. None if a replica's draw is not known, or there is no replica.

    Args:
        demand: the model's demand.
        mine: its replicas' candidates, each with the level of interference of its device.
    """
    planned = demand.demand.planned_req_per_s
    capacity = math.fsum(c.capacity_req_per_s / level for c, level in mine)
    if not mine or any(c.watts is None for c, _ in mine) or capacity <= 0:
        return None
    busy = 1.0 if planned is None else min(1.0, planned / capacity)
    return busy * math.fsum((c.watts or 0.0) / level for c, level in mine)
