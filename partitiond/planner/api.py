"""Takes a request and returns a checked plan, or the reasons why there is none."""

import dataclasses
import math
import time
from typing import Any, Final

from partitiond.core.errors import PartitiondError
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import (
    MAX_MOVE_PRICE,
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
    same_engine,
)
from partitiond.planner.answers.certify import certify, rates_of
from partitiond.planner.answers.explain import explain, unplaced
from partitiond.planner.check import check_plan
from partitiond.planner.check.changes import held_demand
from partitiond.planner.check.figures import levels_of
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.solver_costs import drawn_watts, usable_request
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import packing_of
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import OnProgress
from partitiond.planner.search.portfolio import evaluate, solve_portfolio
from partitiond.planner.search.priorities import lexicographic, order, values_of
from partitiond.planner.search.single_starts import with_single_starts
from partitiond.planner.search.without_outage import (
    all_stay,
    forbidden_outages,
    gone,
    held_back_told,
    may_be_out,
    spoken_against,
    with_old_ones,
    with_own_names,
    without_old_ones,
)
from partitiond.planner.stop import Stop, never

MOST_SHARE: Final = 1.25
"""An answer aims to end after so much of the time limit, whatever was asked on the way. If the best
plan has an outage, each further solve has half of what those before it left. Chosen."""
LEAST_SHARE: Final = 0.01
"""Share of the limit of a question that has to be asked. Chosen."""
STARTS_SHARE: Final = 0.1
STARTS_LEAST_SECONDS: Final = 0.5
"""Share of the time limit, and seconds at least, for starts beside a plan. Chosen."""


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
    made = _with_starts(_without_outage(first, began, on_progress, stop), stop)
    placements = made.placements
    if request.models and not placements:
        return Infeasible(
            reasons=tuple(dict.fromkeys(u.reason for u in made.missing)),
            remedies=tuple(dict.fromkeys(u.remedy for u in made.missing if u.remedy)),
        )
    levels = _levels(request, placements)
    of_model = by_key((p.model, (p.candidate, levels[p.device_id])) for p in placements)
    forecasts = tuple(_forecast(d, of_model[d.model]) for d in request.models)
    short = {f.model: _short(f) for f in forecasts}
    held_back = tuple(HeldBack(o.model, o.seconds, short[o.model]) for o in made.outages)
    why = {one.model: held_back_told(one) for one in held_back}
    missing = tuple(dataclasses.replace(u, reason=why.pop(u.model, u.reason)) for u in made.missing)
    seconds = time.monotonic() - began
    proof = certify(made.instance, made.found, placements, levels, seconds)
    if held_back or missing:
        proof = dataclasses.replace(proof, partial=True)
    plan = Plan(
        id=request.plan_id,
        placements=placements,
        devices=request.devices,
        forecasts=forecasts,
        unplaced=missing,
        certificate=proof,
        explanation=(
            *explain(made.instance, made.found, placements, proof),
            *(u.reason for u in missing),
            *why.values(),
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
        outages: of models that stay as they run because of them.
    """

    instance: Instance
    found: SolveAnswer
    missing: tuple[Unplaced, ...]
    placements: tuple[Placement, ...]
    outages: tuple[Outage, ...] = ()


def _made(request: PlanRequest, on_progress: OnProgress | None, stop: Stop) -> _Made:
    began = time.monotonic()
    instance = build_instance(request)

    def may(packing: Packing) -> int:
        return spoken_against(request, assign(instance, packing)) if request.running else 0

    if instance.needs:
        found = solve_portfolio(instance, on_progress, stop, may, began)
    else:  # no model is wanted, or no model fits a device
        status, method = Status.OPTIMAL, "nothing to place"
        found = SolveAnswer(
            Packing(instance), request.objective, 0.0, 0.0, status, method, None, None
        )
    packing = found.packing.copy()
    packing.settle()  # now its rates are those of the devices' actual contents
    found = dataclasses.replace(found, packing=packing)
    return _on_devices(found, assign(instance, packing))


def _on_devices(found: SolveAnswer, placements: tuple[Placement, ...]) -> _Made:
    instance = found.packing.instance
    levels = _levels(instance.request, placements)
    missing = unplaced(instance, found, rates_of(instance, placements, levels))
    return _Made(instance, found, missing, placements)


def _without_outage(made: _Made, began: float, on_progress: OnProgress | None, stop: Stop) -> _Made:
    """Return the answer, or one that leaves no model without a replica
    (`planner.search.without_outage`).

    Args:
        began: when the answer was asked for, in `time.monotonic`.
    """
    request, alone = made.instance.request, made.found.beside
    coming = forbidden_outages(request, made.placements)
    if not coming:
        return made
    models = {outage.model for outage in coming}
    limit = seconds = request.time_limit_seconds

    def in_time() -> bool:
        """Whether there is time for another question; `seconds` is what it has."""
        nonlocal seconds
        rest = began + MOST_SHARE * limit - time.monotonic()
        left = limit / 2 if request.deterministic else rest
        seconds = max(LEAST_SHARE * limit, min(seconds, left) / 2)
        return left > 0

    if in_time():
        again = dataclasses.replace(request, time_limit_seconds=seconds)
        beside = _made(with_old_ones(again, models, for_good=False), on_progress, stop)
        replaced = _replaced(made, beside)
        if replaced is not None:
            return replaced
    answers = list[_Made]()
    wanted = request.objective if request.objective.is_cost else Objective.MAX_GOODPUT
    there = frozenset(p.model for p in request.running) - gone(request)
    all_running = there - may_be_out(request)
    wanting = {m.model for m in request.models if m.demand.planned_req_per_s != 0}
    could_stay = there & wanting
    starts = () if alone is None else assign(made.instance, alone)
    # What runs at sizes of the past is no part of the plan beside what runs.
    enough = alone is not None and could_stay <= {p.model for p in starts}
    # What serves today is kept before anything else: nothing moves unless all are served then.
    unmoved = (
        (all_running, wanted),
        (all_running, Objective.MAX_GOODPUT),
        (there, Objective.MAX_GOODPUT),  # what may be out for a while is not to be out for good
    )
    questions = ((*question, MAX_MOVE_PRICE) for question in dict.fromkeys(unmoved))
    for staying, objective, move_price in ((models, wanted, request.move_price), *questions):
        if not in_time() and (enough or staying is models):
            continue
        asked = dataclasses.replace(
            with_old_ones(request, staying, for_good=True),
            objective=objective,
            move_price=move_price,
            time_limit_seconds=seconds,
        )
        held = _made(asked, on_progress, stop)
        placements = with_own_names(held.placements)
        as_wanted = held.found.objective is objective and not held.found.packing.lacking()
        last = objective is Objective.MAX_GOODPUT and staying is not models
        if (
            (as_wanted or last)
            and all_stay(asked, held.placements)
            and not forbidden_outages(request, placements)
        ):
            answers.append(_held(made, placements, coming, held.found.method, stop))
            if could_stay <= {p.model for p in placements}:
                break
    if alone is not None:
        # Asked apart, what runs and what is new may not gain from one another.
        answers.append(_held(made, starts, coming, made.found.method, stop))
    if answers:
        return max(answers, key=_held_order)
    raise PlanRefusedError(
        "no plan without an outage was found, though all that runs could stay.",
        hint="Please report this with the request; --allow-outage makes a plan meanwhile.",
    )


def _with_starts(made: _Made, stop: Stop) -> _Made:
    """Return the answer with what idle devices serve of what it leaves out."""
    request, placements = made.instance.request, made.placements
    if not (made.missing and placements) or made.outages:
        return made
    more = with_single_starts(request, placements, idle=True, stop=_late(request, stop))
    if len(more) == len(placements):
        return made
    return _as_asked(made, request, more, made.found.method) or made


def _late(request: PlanRequest, stop: Stop) -> Stop:
    """Return a `Stop` for starts beside a plan that begin now."""
    seconds = max(STARTS_LEAST_SECONDS, STARTS_SHARE * request.time_limit_seconds)
    until = math.inf if request.deterministic else time.monotonic() + seconds
    return lambda: stop() or time.monotonic() > until


def _replaced(made: _Made, beside: _Made) -> _Made | None:
    """Return the answer that was found beside replicas that leave later; None if it is no answer to
    the question, or serves less."""
    placements = without_old_ones(beside.placements)
    if not all_stay(beside.instance.request, beside.placements):
        return None
    if forbidden_outages(made.instance.request, placements):
        return None
    found = _as_asked(made, made.instance.request, placements, beside.found.method)
    return found if found is not None and _serves_as_much(found, made) else None


def _serves_as_much(one: _Made, other: _Made) -> bool:
    """Return whether an answer leaves out no other models than another one, and serves no less."""
    if not {u.model for u in one.missing} <= {u.model for u in other.missing}:
        return False
    mine, theirs = one.found.packing, other.found.packing
    if mine.short_replicas() != theirs.short_replicas():
        return mine.short_replicas() < theirs.short_replicas()
    return order(values_of(mine), values_of(theirs)) >= 0


def _held_order(made: _Made) -> tuple[int, Any]:
    """Return a sort key of answers that hold something back: least numbers, then what each priority
    gets."""
    packing = made.found.packing
    return -packing.short_replicas(), lexicographic(values_of(packing))


def _held(
    made: _Made,
    placements: tuple[Placement, ...],
    coming: tuple[Outage, ...],
    method: str,
    stop: Stop,
) -> _Made:
    """Return the answer with running replicas that stay and starts beside them, and the models that
    this holds back."""
    request = made.instance.request
    more = with_single_starts(request, placements, idle=False, stop=_late(request, stop))
    answers = (_held_as(made, one, coming, method) for one in dict.fromkeys((more, placements)))
    answer = next((one for one in answers if one is not None), None)
    if answer is None:
        raise PlanRefusedError(
            "the running replicas are no part of any plan, though they could stay.",
            hint="Please report this with the request; --allow-outage makes a plan meanwhile.",
        )
    return answer


def _held_as(
    made: _Made, placements: tuple[Placement, ...], coming: tuple[Outage, ...], method: str
) -> _Made | None:
    """Return placements as the answer, and the models that they hold back: those that lack
    something, or whose replicas stay although their rules or candidates changed."""
    request, ran = made.instance.request, {p.replica_id: p for p in made.instance.request.running}
    stays = (p for p in placements if p.replica_id in ran and same_engine(ran[p.replica_id], p))
    old = by_key((p.model, p) for p in stays)
    candidates = {m.model: m.candidates for m in request.models}
    changed = {p.model for p in placements if p.candidate not in candidates[p.model]}
    seconds = {outage.model: outage for outage in coming}
    for names in (set[str](), {*seconds, *changed} & {*old}, {*old}):
        models = tuple(
            held_demand(m, old[m.model]) if m.model in names and old[m.model] else m
            for m in request.models
        )
        asked = dataclasses.replace(request, models=models)
        found = _as_asked(made, asked, placements, method)
        if found is not None:
            lacks = {u.model for u in found.missing}
            # What is served less than by the plan with outages, is because these stay.
            less = not _serves_as_much(found, made)
            stay = {*seconds} & {*old}
            held = names | (stay if less else stay & lacks)
            outages = (seconds.get(name, Outage(name, 0.0, 0.0)) for name in sorted(held))
            return dataclasses.replace(found, outages=tuple(outages))
    return None


def _as_asked(
    made: _Made, asked: PlanRequest, placements: tuple[Placement, ...], method: str
) -> _Made | None:
    """Return placements as an answer to a question that others were asked in place of; None if they
    break a rule of it."""
    instance, objective = made.instance, made.instance.request.objective
    if made.found.proven_impossible or asked.models != instance.request.models:
        # Demands that were lowered, as models are held back, prove nothing of those asked for.
        objective = made.found.objective
    candidates = {m.model: m.candidates for m in asked.models}
    if any(p.candidate not in candidates[p.model] for p in placements):
        return None
    packing = packing_of(instance, placements) if asked.models == instance.request.models else None
    if packing is None:
        # Of sizes, one may beat another only here: what runs is a size of a model held back.
        instance = build_instance(asked, placements)
        packing = packing_of(instance, placements)
    if packing is None:
        return None
    if packing.lacking() if objective.is_cost else packing.short_replicas():
        objective = Objective.MAX_GOODPUT
    name = f"{method.partition(';')[0]}, beside what runs"
    found = evaluate(packing, objective, name)
    if objective is made.found.objective:
        found = dataclasses.replace(found, proven_impossible=made.found.proven_impossible)
    elif objective is not asked.objective and asked.models == made.instance.request.models:
        # Nothing that is held back says why.
        found = dataclasses.replace(found, proven_impossible=False)
    return _on_devices(found, placements)


def _short(forecast: ModelForecast) -> float | None:
    """Return what a model lacks, in requests/s; None if its demand is unlimited."""
    wanted = forecast.demand_req_per_s
    return None if wanted is None else max(0.0, wanted - forecast.capacity_req_per_s)


def _levels(request: PlanRequest, placements: tuple[Placement, ...]) -> dict[str, float]:
    """Return the level of interference of each device in use, by id, from its contents.

    Infinite if no level covers the contents: the checker refuses such a plan.
    """
    levels = levels_of(placements, request.interference)
    return {device: level or math.inf for device, level in levels.items()}


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
