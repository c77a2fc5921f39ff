"""The planner's door: a request in, a checked plan or the reasons against one out."""

import math
import time

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import (
    Certificate,
    Infeasible,
    ModelDemand,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    Status,
)
from partitiond.planner.assign import assign
from partitiond.planner.check import check_plan
from partitiond.planner.explain import explain, infeasible, unplaced
from partitiond.planner.instance import Instance, PlanRequest, build_instance
from partitiond.planner.packing import Packing
from partitiond.planner.portfolio import Found, solve_portfolio


class PlanRefusedError(PartitiondError):
    """The planner made a plan that its checker refuses: a defect here, not in the request."""

    code = "plan_refused"


def solve(request: PlanRequest) -> Plan | Infeasible:
    """The best plan found in the request's time, checked, with certificate and explanation.

    What cannot all be served is served in part, and the rest is listed in `Plan.unplaced`.
    `Infeasible` means that models are wanted and no replica of any can be placed.

    Raises:
        PlanRefusedError: the plan found breaks a rule; nothing should be done with it.
    """
    began = time.monotonic()
    instance = build_instance(request)
    found = solve_portfolio(instance) if instance.needs else _nothing(instance)
    missing = unplaced(instance, found)
    placements = assign(instance, found.packing)
    if request.models and not placements:
        return infeasible(missing)
    forecasts = _forecasts(instance, found.packing, placements)
    plan = Plan(
        id=request.plan_id,
        placements=placements,
        devices=request.devices,
        forecasts=forecasts,
        unplaced=missing,
        certificate=_certificate(instance, found, forecasts, time.monotonic() - began),
        explanation=(*explain(instance, found, placements), *(u.reason for u in missing)),
        created_at=request.created_at,
    )
    wrong = check_plan(plan, request.models, request.interference, request.host_memory_bytes)
    if wrong:
        raise PlanRefusedError(
            f"the planner's own plan is refused by its checker: {'; '.join(wrong[:3])}.",
            hint="Please report this with the request; the running plan is untouched.",
            facts={"violations": list(wrong)},
        )
    return plan


def _nothing(instance: Instance) -> Found:
    """The answer where no model is wanted, or none fits anywhere."""
    packing = Packing(instance)
    objective = instance.request.objective
    return Found(packing, objective, 0.0, 0.0, Status.OPTIMAL, "nothing to place", None, None)


def _forecasts(
    instance: Instance, packing: Packing, placements: tuple[Placement, ...]
) -> tuple[ModelForecast, ...]:
    levels = {
        instance.request.devices[real].id: packing.option(abstract).level
        for real, abstract in _real_devices(instance, packing, placements)
    }
    return tuple(_forecast(demand, placements, levels) for demand in instance.request.models)


def _real_devices(
    instance: Instance, packing: Packing, placements: tuple[Placement, ...]
) -> list[tuple[int, int]]:
    """(real, abstract) device pairs by what they hold; devices that hold the same are alike."""
    held: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    item_of = {item.candidate: item.index for item in instance.items}
    for index, device in enumerate(instance.request.devices):
        items = sorted(item_of[p.candidate] for p in placements if p.device_id == device.id)
        if items:
            held.setdefault((instance.group_of[index], tuple(items)), []).append(index)
    pairs = []
    for abstract in packing.used():
        load = packing.loads[abstract]
        items = sorted(item_of[instance.items[i].candidate] for i in load.items)
        pairs.append((held[load.group, tuple(items)].pop(), abstract))
    return pairs


def _forecast(
    demand: ModelDemand, placements: tuple[Placement, ...], levels: dict[str, float]
) -> ModelForecast:
    mine = [(p.candidate, levels[p.device_id]) for p in placements if p.model == demand.model]
    kinds = [c.profile_kind for c, _ in mine]
    order = ("estimated", "transferred", "measured")
    return ModelForecast(
        model=demand.model,
        replicas=len(mine),
        capacity_req_per_s=math.fsum(c.capacity_req_per_s / level for c, level in mine),
        demand_req_per_s=demand.demand.planned_req_per_s,
        ttft_p95_seconds=max((c.ttft_p95_seconds * level for c, level in mine), default=None),
        tpot_p95_seconds=max((c.tpot_p95_seconds * level for c, level in mine), default=None),
        profile_kind=min(kinds, key=lambda k: order.index(k.value), default=None),
    )


def _certificate(
    instance: Instance, found: Found, forecasts: tuple[ModelForecast, ...], seconds: float
) -> Certificate:
    if found.objective is Objective.MIN_DEVICES:
        value, bound = found.value, min(found.bound, found.value)
    else:
        # The solver rounds every rate down; the certificate speaks of the rates themselves.
        value = _goodput(instance, forecasts)
        bound = value if found.status is Status.OPTIMAL else max(found.bound, value)
    return Certificate(
        objective=found.objective,
        value=value,
        bound=bound,
        gap=abs(bound - value) / max(abs(value), 1e-9),
        status=found.status,
        method=found.method,
        seconds=seconds,
        baseline_one_model_per_device=_one_model_per_device(instance),
        baseline_first_fit=found.first_fit,
    )


def _goodput(instance: Instance, forecasts: tuple[ModelForecast, ...]) -> float:
    capacity = {f.model: f.capacity_req_per_s for f in forecasts}
    rated = [m for m in instance.request.models if m.demand.planned_req_per_s is not None]
    return math.fsum(
        m.demand.weight * min(capacity[m.model], m.demand.planned_req_per_s or math.inf)
        for m in rated or instance.request.models
    )


def _one_model_per_device(instance: Instance) -> int:
    """Devices if no device served two models: one engine on each, at its best."""
    total = 0
    for need in instance.needs:
        best = max(
            (
                instance.rate(item, option)
                for group in instance.groups
                for option, fit in zip(group.options, group.fits, strict=True)
                for item in fit
                if instance.items[item].model == need.model and option.level == 1.0
            ),
            default=0,
        )
        by_rate = -(-need.rate // best) if best else 0
        total += max(need.min_replicas, by_rate)
    return total


__all__ = ["PlanRefusedError", "PlanRequest", "solve"]
