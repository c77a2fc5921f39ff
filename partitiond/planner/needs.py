"""What models need, as integers."""

import math
from collections.abc import Collection, Mapping

from partitiond.core.hardware import Device
from partitiond.core.interference import TOLERANCE
from partitiond.core.plan import ModelDemand
from partitiond.core.spec import FaultDomain, Isolation
from partitiond.planner.types import RATE_SCALE, Need, PlanRequest

ANY_NUMBER = 1_000_000
"""More replicas than any plan holds: no limit."""


def needs_of(request: PlanRequest) -> list[Need]:
    """The needs of all models, in the request's order."""
    avoided = avoided_names(request.models)
    domains = {
        kind: domain_numbers(request.devices, kind)
        for kind in {m.rules.survive for m in request.models if m.rules.survive is not None}
    }
    return [
        need_of(index, demand, request, avoided.get(demand.model, ()), domains)
        for index, demand in enumerate(request.models)
    ]


def need_of(
    index: int,
    demand: ModelDemand,
    request: PlanRequest,
    avoided: Collection[str] = (),
    domains: Mapping[FaultDomain, tuple[int, ...]] | None = None,
) -> Need:
    """The demand of one model, rounded to the safe side.

    Args:
        index: of the model in the request.
        demand: what is asked for it.
        request: where it is asked.
        avoided: names of models that it never shares a device with, said by either.
        domains: fault domain of every device, for each kind that is asked for.
    """
    rate = demand.demand.planned_req_per_s
    rules = demand.rules
    # Only where all demand need not be served may a model with a rate be left out altogether.
    optional = rate is not None and not request.objective.is_cost
    least = max(0 if optional else 1, demand.min_replicas)
    survive = rules.survive is not None
    share = rules.survive_share
    return Need(
        model=index,
        name=demand.model,
        rate=0 if rate is None else max(1, _rate_up(rate)),
        min_replicas=least,
        max_replicas=demand.max_replicas if demand.max_replicas is not None else ANY_NUMBER,
        rated=rate is not None,
        isolated=demand.isolation is not Isolation.SHARED,
        weight=demand.planned_weight,
        avoid=tuple(sorted(set(avoided) - {demand.model})),
        near=tuple(sorted(set(rules.near) - {demand.model})),
        domain_of=_domains(request, rules.survive, domains),
        survive_rate=_rate_up(rate * share) if survive and rate is not None else 0,
        survive_replicas=1 if survive and rate is None else 0,
    )


def _rate_up(req_per_s: float) -> int:
    return math.ceil(req_per_s * RATE_SCALE - TOLERANCE)


def _domains(
    request: PlanRequest,
    kind: FaultDomain | None,
    known: Mapping[FaultDomain, tuple[int, ...]] | None,
) -> tuple[int, ...]:
    if kind is None:
        return ()
    if known is not None and kind in known:
        return known[kind]
    return domain_numbers(request.devices, kind)


def avoided_names(models: tuple[ModelDemand, ...]) -> dict[str, set[str]]:
    """Who never shares a device with whom: both ways, whoever says it; known models only."""
    known = {m.model for m in models}
    found: dict[str, set[str]] = {}
    for model in models:
        for other in model.rules.avoid:
            if other in known:
                found.setdefault(model.model, set()).add(other)
                found.setdefault(other, set()).add(model.model)
    return found


def domain_numbers(devices: tuple[Device, ...], kind: FaultDomain) -> tuple[int, ...]:
    """The fault domain of every device, numbered from 0 in order of appearance."""
    numbers: dict[object, int] = {}
    return tuple(numbers.setdefault(domain_name(device, kind), len(numbers)) for device in devices)


def domain_name(device: Device, kind: FaultDomain) -> tuple[str, str]:
    """What is lost together with a device; without a rack its host is the rack."""
    match kind:
        case FaultDomain.DEVICE:
            return ("device", device.id)
        case FaultDomain.RACK if device.rack:
            return ("rack", device.rack)
        case _:
            return ("host", device.host)
