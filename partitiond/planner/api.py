"""Takes a request and returns a checked plan, or the reasons why there is none."""

import dataclasses
import functools
import math
import time

from partitiond.core.errors import PartitiondError
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import (
    Candidate,
    HeldBack,
    Infeasible,
    ModelDemand,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    Status,
    Unplaced,
)
from partitiond.planner.answers.certify import certify, rates_of
from partitiond.planner.answers.explain import explain, unplaced
from partitiond.planner.check import check_plan
from partitiond.planner.check.figures import level_together
from partitiond.planner.model.costs import drawn_watts, usable_request
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import running_packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import OnProgress
from partitiond.planner.search.portfolio import solve_portfolio
from partitiond.planner.search.without_outage import (
    all_stay,
    forbidden_outages,
    held_back_told,
    not_without_outage,
    spoken_against,
    with_old_ones,
    with_own_names,
    without_old_ones,
)
from partitiond.planner.stop import Stop, never
from partitiond.planner.warm import warm


class PlanRefusedError(PartitiondError):
    """The checker refused a plan of the planner: a defect in the planner, not in the request."""

    code = "plan_refused"


def solve(
    request: PlanRequest, on_progress: OnProgress | None = None, stop: Stop = never
) -> Plan | Infeasible:
    """Return the best plan found in the request's time, checked, with certificate and explanation.

    If not all demand can be served, a part is served and the rest is listed in `Plan.unplaced`.
    `Infeasible` means that models are wanted and no replica of any model can be placed.

    Args:
        on_progress: called with better plans and bounds, in the thread that found them.
        stop: called periodically; True ends the solve with the best plan so far.

    Raises:
        SpecError: the objective needs an unknown figure of a device, such as its power.
        PlanRefusedError: the plan found breaks a rule; nothing should be done with it.
    """
    began = time.monotonic()
    request = usable_request(request)
    first = _made(request, on_progress, stop)
    made = _without_outage(first, on_progress, stop)
    if made is None:
        return not_without_outage(forbidden_outages(request, first.placements))
    placements = made.placements
    if request.models and not placements:
        return Infeasible(
            reasons=tuple(dict.fromkeys(u.reason for u in made.missing)),
            remedies=tuple(dict.fromkeys(u.remedy for u in made.missing if u.remedy)),
        )
    levels = _levels(request, placements)
    of_model = by_key((p.model, (p.candidate, levels[p.device_id])) for p in placements)
    forecasts = tuple(_forecast(d, of_model[d.model]) for d in request.models)
    seconds_out = {outage.model: outage.seconds for outage in made.outages}
    held_back = tuple(
        HeldBack(f.model, seconds_out[f.model], _short(f))
        for f in forecasts
        if f.model in seconds_out
    )
    compiled = first.found.compile_seconds
    if made.instance is not first.instance:
        compiled += made.found.compile_seconds
    seconds = time.monotonic() - began - compiled
    proof = certify(made.instance, made.found, made.as_solved, levels, seconds)
    plan = Plan(
        id=request.plan_id,
        placements=placements,
        devices=request.devices,
        forecasts=forecasts,
        unplaced=made.missing,
        certificate=proof,
        explanation=(
            *explain(made.instance, made.found, made.as_solved, proof),
            *(u.reason for u in made.missing),
            *(held_back_told(one) for one in held_back),
        ),
        created_at=request.created_at,
        held_back=held_back,
    )
    memory = request.host_memory_bytes
    wrong = check_plan(plan, request.models, request.interference, memory, request.before)
    if wrong:
        raise PlanRefusedError(
            f"the planner's own plan is refused by its checker: {'; '.join(wrong[:3])}.",
            hint="Please report this with the request; the running plan is untouched.",
            facts={"violations": list(wrong)},
        )
    return plan


@dataclasses.dataclass(frozen=True, slots=True)
class _Made:
    """One answer of the portfolio, on real devices.

    Attributes:
        instance: the problem instance that was solved.
        as_solved: the placements in the names of that instance.
        placements: the same placements in the names of the request.
        outages: outages that make models stay as they run although the request did not say so.
    """

    instance: Instance
    found: SolveAnswer
    missing: tuple[Unplaced, ...]
    as_solved: tuple[Placement, ...]
    placements: tuple[Placement, ...]
    outages: tuple[Outage, ...] = ()


def _made(request: PlanRequest, on_progress: OnProgress | None, stop: Stop) -> _Made:
    instance = build_instance(request)

    def may(packing: Packing) -> int:
        return spoken_against(request, assign(instance, packing)) if request.running else 0

    if instance.needs:
        found = solve_portfolio(
            instance, on_progress, stop, may, compile_kernels=functools.partial(warm, solve)
        )
    else:  # no model is wanted, or no model fits a device
        status, method = Status.OPTIMAL, "nothing to place"
        found = SolveAnswer(
            Packing(instance), request.objective, 0.0, 0.0, status, method, None, None
        )
    packing = found.packing.copy()
    packing.settle()  # now its rates are those of the devices' actual contents
    found = dataclasses.replace(found, packing=packing)
    placements = assign(instance, found.packing)
    levels = _levels(request, placements)
    missing = unplaced(instance, found, rates_of(instance, placements, levels))
    return _Made(instance, found, missing, placements, placements)


def _without_outage(made: _Made, on_progress: OnProgress | None, stop: Stop) -> _Made | None:
    """Return the answer, or one that leaves no model without a replica
    (`planner.search.without_outage`).

    None if there is no such answer either.
    """
    request = made.instance.request
    coming = forbidden_outages(request, made.placements)
    if not coming:
        return made
    models = {outage.model for outage in coming}
    beside = _made(with_old_ones(request, models, and_new=True), on_progress, stop)
    found = _as_asked(made, beside)
    if found is not None:
        return found
    while True:
        held = _made(with_old_ones(request, models, and_new=False), on_progress, stop)
        placements = with_own_names(held.as_solved, request.running)
        if not all_stay(held.instance.request, held.as_solved):
            return None
        more = [o for o in forbidden_outages(request, placements) if o.model not in models]
        if not more:
            return dataclasses.replace(held, placements=placements, outages=coming)
        coming = (*coming, *more)
        models |= {outage.model for outage in more}


def _as_asked(made: _Made, beside: _Made) -> _Made | None:
    """Return the answer found beside the running replicas, without them; None if it is unusable."""
    request = made.instance.request
    placements = without_old_ones(beside.as_solved)
    if (
        beside.found.objective is not made.found.objective
        or not {u.model for u in beside.missing} <= {u.model for u in made.missing}
        or not all_stay(beside.instance.request, beside.as_solved)
        or forbidden_outages(request, placements)
    ):
        return None
    as_if = build_instance(dataclasses.replace(request, running=placements))
    packing = running_packing(as_if)
    packing.instance = made.instance
    if sum(packing.counts.values()) != len(placements):
        return None
    packing.settle()
    objective = made.found.objective
    value = packing.goodput() if objective is Objective.MAX_GOODPUT else beside.found.value
    found = dataclasses.replace(
        made.found,
        packing=packing,
        seen=(),  # these were compared with the answer that had an outage
        value=packing.cost() if objective.is_cost else value,
        status=Status.FEASIBLE,
        method=f"{beside.found.method.split(';')[0]}, beside what runs; "
        f"{made.found.method.partition('; ')[2]}",
    )
    return _Made(made.instance, found, beside.missing, placements, placements)


def _short(forecast: ModelForecast) -> float | None:
    """Return what a model lacks, in requests/s; None if its demand is unlimited."""
    wanted = forecast.demand_req_per_s
    return None if wanted is None else max(0.0, wanted - forecast.capacity_req_per_s)


def _levels(request: PlanRequest, placements: tuple[Placement, ...]) -> dict[str, float]:
    """Return the level of interference of each device in use, by id, from its contents.

    Infinite if no level covers the contents: the checker refuses such a plan.
    """
    here, known = by_key((p.device_id, p.candidate) for p in placements), request.interference
    return {device: level_together(mine, known) or math.inf for device, mine in here.items()}


def _forecast(demand: ModelDemand, mine: list[tuple[Candidate, float]]) -> ModelForecast:
    """Return what a model gets from replicas at levels of interference."""
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
