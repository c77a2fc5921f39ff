"""The planner's door: a request in, a checked plan or the reasons against one out."""

import dataclasses
import math
import time

from partitiond.core.errors import PartitiondError
from partitiond.core.interference import level_of, sigma
from partitiond.core.plan import (
    Infeasible,
    ModelDemand,
    ModelForecast,
    Placement,
    Plan,
    Status,
)
from partitiond.planner.assign import assign, bytes_to_load
from partitiond.planner.certify import certify
from partitiond.planner.check import check_plan
from partitiond.planner.costs import drawn_watts, usable_request
from partitiond.planner.explain import explain, infeasible, unplaced
from partitiond.planner.found import Found
from partitiond.planner.instance import Instance, PlanRequest, build_instance
from partitiond.planner.packing import Packing
from partitiond.planner.portfolio import solve_portfolio
from partitiond.planner.progress import OnProgress, Stop, never
from partitiond.planner.tidy import free_squares, tidy


class PlanRefusedError(PartitiondError):
    """The planner made a plan that its checker refuses: a defect here, not in the request."""

    code = "plan_refused"


def solve(
    request: PlanRequest, on_progress: OnProgress | None = None, stop: Stop = never
) -> Plan | Infeasible:
    """The best plan found in the request's time, checked, with certificate and explanation.

    What cannot all be served is served in part, and the rest is listed in `Plan.unplaced`.
    `Infeasible` means that models are wanted and no replica of any can be placed.

    Args:
        request: the question.
        on_progress: told of better plans and bounds, in whatever thread found them.
        stop: asked now and then whether to end with the best so far.

    Raises:
        SpecError: the objective needs what is not known of a device, as its power.
        PlanRefusedError: the plan found breaks a rule; nothing should be done with it.
    """
    began = time.monotonic()
    request = usable_request(request)
    instance = build_instance(request)
    found = solve_portfolio(instance, on_progress, stop) if instance.needs else _nothing(instance)
    found = dataclasses.replace(found, packing=_tidied(instance, found.packing))
    missing = unplaced(instance, found)
    placements = assign(instance, found.packing)
    if request.models and not placements:
        return infeasible(missing)
    levels = _levels(request, placements)
    of_model: dict[str, list[Placement]] = {demand.model: [] for demand in request.models}
    for p in placements:
        of_model[p.model].append(p)
    forecasts = tuple(_forecast(d, of_model[d.model], levels) for d in request.models)
    seconds = time.monotonic() - began
    plan = Plan(
        id=request.plan_id,
        placements=placements,
        devices=request.devices,
        forecasts=forecasts,
        unplaced=missing,
        certificate=certify(instance, found, placements, levels, seconds),
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


def _tidied(instance: Instance, packing: Packing) -> Packing:
    """Free memory in larger pieces, where that loads nothing more."""
    packing = packing.copy()
    packing.settle()  # the last step: whatever made it, its rates are those of what is on devices
    tidied = tidy(instance, packing)
    if free_squares(tidied) <= free_squares(packing):
        return packing
    if not instance.request.running:
        return tidied
    more = bytes_to_load(instance, tidied) > bytes_to_load(instance, packing)
    return packing if more else tidied


def _levels(request: PlanRequest, placements: tuple[Placement, ...]) -> dict[str, float]:
    """Level of interference of each device in use, by id, from what is on it.

    The packing's level is never lower, and may be higher: its integers are rounded to the safe
    side.
    """
    here: dict[str, list[Placement]] = {}
    for p in placements:
        here.setdefault(p.device_id, []).append(p)
    return {device: _level(request, mine) for device, mine in here.items()}


def _level(request: PlanRequest, here: list[Placement]) -> float:
    mode, known = here[0].candidate.size.mode, request.interference
    busy, kappas = zip(*((p.candidate.busy, p.candidate.kappa) for p in here), strict=True)
    # Where no level covers it, the checker refuses the plan.
    return level_of(mode, sigma(mode, busy, known, kappas), known) or math.inf


def _forecast(
    demand: ModelDemand, placements: list[Placement], levels: dict[str, float]
) -> ModelForecast:
    mine = [(p.candidate, levels[p.device_id]) for p in placements]
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
        watts=drawn_watts(demand, mine),
        output_tokens_per_s=math.fsum(c.output_tokens_per_s / level for c, level in mine),
    )


__all__ = ["PlanRefusedError", "PlanRequest", "solve"]
