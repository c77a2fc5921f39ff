"""Computes what models need, as integers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.placement_rules import PRIORITY_FACTOR
from partitiond.core.model.spec import FaultDomain
from partitiond.core.plan.record import ModelDemand
from partitiond.planner.model.figures import down
from partitiond.planner.model.types import RATE_SCALE, Need, PlanRequest

ANY_NUMBER = 1_000_000
"""More replicas than any plan holds, so this stands for no limit."""
LEAST: Final = 10**8
"""Rates at the highest levels are a few times smaller, and a unit is still a few parts in 10^8."""
MOST_UNITS: Final = 10**15
MOST_RATE: Final = 2**55
"""Largest integer of one rate: the sum of hundreds of replicas still fits into 64 bits."""
CLEARLY: Final = 10.0
"""A replica outweighs lower priorities by this: at a high level its rate is lower. Chosen."""
MOST_LIFT: Final = 1e12
"""Limit on the highest priority over the lowest: more would lose the lowest in floats. Chosen."""
GUESS: Final = 8
"""Replicas per device assumed in the guess of how much a model without a rate may get."""


def needs_of(request: PlanRequest) -> list[Need]:
    """Return the needs of all models, in the request's order, rounded outwards."""
    avoided = _avoided_names(request.models)
    kinds: dict[FaultDomain | None, tuple[int, ...]] = {None: ()}
    kinds |= {kind: _domains(request.devices, kind) for kind in FaultDomain}
    found = []
    for index, demand in enumerate(request.models):
        rate, units, rules = demand.demand.planned_req_per_s, units_of(demand), demand.rules
        kept = None if rate is None or rules.survive is None else rate * rules.survive_share
        need = Need(
            model=index,
            name=demand.model,
            rate=0 if rate is None else max(1, down(rate, units)),
            min_replicas=max(1 if rate is None else 0, demand.min_replicas),
            max_replicas=demand.max_replicas if demand.max_replicas is not None else ANY_NUMBER,
            rated=rate is not None,
            weight=demand.planned_weight,
            avoid=tuple(sorted(avoided.get(demand.model, set()) - {demand.model})),
            near=tuple(sorted(set(rules.near) - {demand.model})),
            domain_of=kinds[rules.survive],
            survive_rate=0 if kept is None else max(1, down(kept, units)),
            survive_replicas=1 if rules.survive is not None and rate is None else 0,
            units=units,
            planned=0.0 if rate is None else rate * units,
            priority=rules.priority,
        )
        found.append(need)
    return found


def units_of(demand: ModelDemand) -> int:
    """Return the integers per request/s of a model, such that its least rate is at least `LEAST`
    and its largest rate is not beyond `MOST_RATE`."""
    rates = [c.capacity_req_per_s for c in demand.candidates]
    planned = demand.demand.planned_req_per_s
    rates += [] if planned is None else [planned * demand.rules.survive_share]
    least, most, units = min(rates, default=1.0), max(rates, default=1.0), RATE_SCALE
    while least * units < LEAST and units < MOST_UNITS and most * units * 10 < MOST_RATE:
        units *= 10
    return units


def with_lifts(request: PlanRequest, needs: Sequence[Need]) -> tuple[Need, ...]:
    """Return the needs with lifts: a replica of a priority outweighs all lower priorities' demand.

    This holds as far as floats allow: `planner.search.priorities` explains how priorities are
    proven.
    """
    rated = any(n.rated for n in needs)
    counted = [n for n in needs if n.rated == rated]
    lift: dict[int, float] = {}
    below, lowest = 0.0, 0.0
    for priority in sorted({n.priority for n in counted}):
        mine = [n for n in counted if n.priority == priority]
        usual = float(PRIORITY_FACTOR) ** priority
        lowest = lowest or usual
        step = min(_least(request, n) for n in mine) / usual
        factor = min(max(usual, CLEARLY * below / step), MOST_LIFT * lowest)
        lift[priority] = factor / usual
        below += factor / usual * math.fsum(_most(request, n) for n in mine)
    return tuple(dataclasses.replace(n, lift=lift.get(n.priority, 1.0)) for n in needs)


def _least(request: PlanRequest, need: Need) -> float:
    """Return the weighted requests/s of one replica alone, but at most the model's demand."""
    rates = [c.capacity_req_per_s for c in request.models[need.model].candidates]
    each = min((rate for rate in rates if rate > 0), default=1.0)
    return need.weight * (min(each, need.planned / need.units) if need.rated else each)


def _most(request: PlanRequest, need: Need) -> float:
    if need.rated:
        return need.weight * need.planned / need.units
    rates = [c.capacity_req_per_s for c in request.models[need.model].candidates]
    return need.weight * max(rates, default=0.0) * GUESS * len(request.devices)


def _avoided_names(models: tuple[ModelDemand, ...]) -> dict[str, set[str]]:
    """Return the models that never share a device, symmetric, of known models only."""
    known = {m.model for m in models}
    found: dict[str, set[str]] = {}
    for model in models:
        for other in model.rules.avoid:
            if other in known:
                found.setdefault(model.model, set()).add(other)
                found.setdefault(other, set()).add(model.model)
    return found


def _domains(devices: tuple[Device, ...], kind: FaultDomain) -> tuple[int, ...]:
    """Return the fault domain of every device, numbered from 0 in order of appearance."""
    numbers: dict[object, int] = {}
    return tuple(numbers.setdefault(domain_name(device, kind), len(numbers)) for device in devices)


def domain_name(device: Device, kind: FaultDomain) -> tuple[str, str]:
    """Return the fault domain that is lost with a device; without a rack the host counts."""
    match kind:
        case FaultDomain.DEVICE:
            return ("device", device.id)
        case FaultDomain.RACK if device.rack:
            return ("rack", device.rack)
        case _:
            return ("host", device.host)
