"""Makes plans that leave no model without a replica while they are applied.

If a plan would cause an outage that is not allowed, the planner solves again, with the running
replicas of such a model as a further model that has to stay. First the model asks for all of its
demand beside them: its new replicas stand on an idle device, say, and the old ones are stopped once
the new ones serve. If there is no room for that, the old replicas go on serving, and the model asks
only for what they lack. If not everything is served that way, all running replicas stay, and the
plan only starts replicas and stops superfluous ones: there is always such a plan.

Replicas on a device that no longer holds what runs there cannot stay. Their models may have an
outage, because every plan would cause it.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.partition import way_of
from partitiond.core.model.demand import ANY_DEMAND, Demand
from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.diff import DiffCost, diff_cost
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import (
    MAY_LACK,
    HeldBack,
    ModelDemand,
    Placement,
    PlanDiff,
    diff_plans,
    same_engine,
)
from partitiond.core.plan.start_order import StartGains
from partitiond.core.replica.free_cores import beside_what_runs
from partitiond.planner.check.changes import to_leave
from partitiond.planner.check.figures import levels_of, rate_of
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.search.nearest import LEAVES, OUTAGE

AS_IT_RUNS: Final = " as it runs"
"""Suffix of the name that stands for a model's running replicas; no model's name has a space."""


def forbidden_outages(
    request: PlanRequest, placements: tuple[Placement, ...]
) -> tuple[Outage, ...]:
    """Return the outages that applying the placements would cause and that are not allowed."""
    if request.allow_outage or not request.running:
        return ()
    old = {p.replica_id: p for p in request.running}
    both = ((old[p.replica_id], p) for p in placements if p.replica_id in old)
    replaced = {p.model for p in request.running}
    replaced -= {new.model for before, new in both if same_engine(before, new)}
    if not replaced & {p.model for p in placements}:
        return ()  # each such model keeps a replica, or is not wanted any more
    here = beside_what_runs(placements, request.running, request.devices)
    diff = diff_plans(request.running, here)
    found = [outage for outage in _takes(request, diff).outages if outage.model in replaced]
    may = may_be_out(request) if found else set[str]()
    return tuple(outage for outage in found if outage.model not in may)


def may_be_out(request: PlanRequest) -> set[str]:
    """Return the models that allow an outage, or whose replicas cannot stay where they run."""
    return gone(request) | {model.model for model in request.models if model.allow_outage}


def gone(request: PlanRequest) -> set[str]:
    """Return the models whose replicas cannot stay where they run."""
    memory = dict(request.host_memory_bytes)
    demands = {model.model: model for model in request.models}
    return to_leave(request.running, request.devices, demands, request.interference, memory)


def spoken_against(request: PlanRequest, placements: tuple[Placement, ...]) -> int:
    """Return the strongest objection to a plan: LEAVES, OUTAGE, or 0 for none."""
    if not all_stay(request, placements):
        return LEAVES
    return OUTAGE if forbidden_outages(request, placements) else 0


def _takes(request: PlanRequest, diff: PlanDiff) -> DiffCost:
    planned = {m.model: m.demand.planned_req_per_s for m in request.models}
    gains = StartGains(
        demands={name: rate for name, rate in planned.items() if rate is not None},
        weights={m.model: m.planned_weight for m in request.models},
    )
    return diff_cost(diff, request.devices, dict(request.start_seconds), gains)


def with_old_ones(request: PlanRequest, models: Collection[str], *, for_good: bool) -> PlanRequest:
    """Return the request with the running replicas of some models as models that have to stay.

    Args:
        request: the request.
        models: models with running replicas.
        for_good: the old replicas go on serving, and their models ask for what these lack. False
            asks for these models beside replicas that leave later.
    """
    rates = rates_today(request)
    running = by_key((p.model, p) for p in _at_present(request) if p.replica_id in rates)
    old = {
        m.model: _needed(m, running[m.model], rates) if for_good else running[m.model]
        for m in request.models
        if m.model in models and running[m.model]
    }
    asked, stays = list[ModelDemand](), list[ModelDemand]()
    for model in request.models:
        mine = old.get(model.model)
        if not mine:
            asked.append(_near(model, old) if for_good else model)
        elif for_good:
            rest = _rest(model, mine, rates)
            asked += [] if rest is None else [_near(rest, old)]
            avoid = {m.model for m in request.models if model.model in m.rules.avoid}
            stays.append(_stays_for_good(model, mine, rates, avoid))
        else:
            asked.append(model)
            stays.append(_stays(model, mine))
    return dataclasses.replace(
        request,
        models=(*asked, *stays),
        running=tuple(_renamed(p) if old.get(p.model) else p for p in request.running),
    )


def _near(model: ModelDemand, old: Mapping[str, object]) -> ModelDemand:
    """Return the demand with the replicas that stay as the company that it has to be near to."""
    near = tuple(name + AS_IT_RUNS if old.get(name) else name for name in model.rules.near)
    return dataclasses.replace(model, rules=dataclasses.replace(model.rules, near=near))


def _at_present(request: PlanRequest) -> list[Placement]:
    """Return the running replicas of wanted models, each at the candidate that it is by now: what
    is known of an engine may have changed since it was started."""
    models = {model.model: model for model in request.models}
    found = []
    for p in request.running:
        known = models[p.model].candidates if p.model in models else ()
        now = (
            dataclasses.replace(p, candidate=c)
            for c in known
            if (c.hardware, c.size) == (p.candidate.hardware, p.candidate.size)
            and c.memory_bytes == p.partition.memory_bytes
        )
        found += [next((n for n in now if same_engine(p, n)), p)] if p.model in models else []
    return found


def rates_today(request: PlanRequest) -> dict[str, float]:
    """Return the requests/s of each running replica that could go on serving, by replica id.

    Excluded are replicas of models that are not wanted, and those on a device that is gone or
    cordoned. The rate is 0 if no level of interference covers the device.
    """
    devices = {device.id for device in request.devices if not device.cordoned}
    here = [p for p in _at_present(request) if p.device_id in devices]
    levels = levels_of(here, request.interference)
    return {p.replica_id: rate_of(p, levels) for p in here}


def _needed(
    model: ModelDemand, running: list[Placement], rates: Mapping[str, float]
) -> list[Placement]:
    """Return the running replicas of a model without those that its demand needs no more."""
    planned, served = model.demand.planned_req_per_s, 0.0
    found = list[Placement]()
    for p in sorted(running, key=lambda p: -rates[p.replica_id]):
        enough = planned is not None and served >= planned * (1 - MAY_LACK)
        if enough and len(found) >= max(1, model.min_replicas):
            break
        if len(found) == model.max_replicas:
            break
        found.append(p)
        served += rates[p.replica_id]
    return found


def _renamed(placement: Placement) -> Placement:
    name = placement.model + AS_IT_RUNS
    candidate = dataclasses.replace(placement.candidate, model=name)
    return dataclasses.replace(placement, model=name, candidate=candidate)


def _stays(model: ModelDemand, running: list[Placement]) -> ModelDemand:
    """Return a demand for exactly the running replicas of a model."""
    here = [_renamed(p).candidate for p in running]
    name, number, sizes = here[0].model, len(here), tuple(dict.fromkeys(here))
    group = max(way_of(p.partition)[1] for p in running)  # under MPS, that of its engines
    return ModelDemand(
        name, ANY_DEMAND, sizes, number, number, model.isolation, isolation_group=group
    )


def _stays_for_good(
    model: ModelDemand, running: list[Placement], rates: Mapping[str, float], avoid: set[str]
) -> ModelDemand:
    """Return the same demand with the rate that these replicas serve of the model's: new neighbours
    must not slow them down below it."""
    planned, served = model.demand.planned_req_per_s, _served(running, rates)
    demand = dataclasses.replace(ANY_DEMAND, weight=model.demand.weight)
    if planned is not None and served:
        demand = dataclasses.replace(demand, req_per_s=min(planned, served))
    rules = PlacementRules(avoid=tuple({*model.rules.avoid, *avoid}), priority=model.rules.priority)
    return dataclasses.replace(_stays(model, running), demand=demand, rules=rules)


def _served(running: list[Placement], rates: Mapping[str, float]) -> float:
    return math.fsum(rates[p.replica_id] for p in running)


def _rest(
    model: ModelDemand, running: list[Placement], rates: Mapping[str, float]
) -> ModelDemand | None:
    """Return what a model asks for beside running replicas that stay; None if that is nothing.

    A loss that it has to survive is left out, as these replicas count for it. Beside engines of
    another isolation group it asks for nothing: its group changes with those engines.
    """
    planned, served = model.demand.planned_req_per_s, _served(running, rates)
    few = max(0, model.min_replicas - len(running))
    most = None if model.max_replicas is None else model.max_replicas - len(running)
    groups = {way_of(p.partition)[1] for p in running if way_of(p.partition)[1]}
    lacks = 0.0 if planned is None else planned - served
    if (most is not None and most <= 0) or groups - {model.isolation_group}:
        return None
    if lacks > MAY_LACK * (planned or 0.0):
        demand = Demand(lacks, weight=model.demand.weight)
    elif few:
        demand, most = dataclasses.replace(ANY_DEMAND, weight=model.demand.weight), few
    else:
        return None
    rules = dataclasses.replace(model.rules, survive=None)
    return dataclasses.replace(
        model, demand=demand, min_replicas=few, max_replicas=most, rules=rules
    )


def all_stay(request: PlanRequest, placements: Iterable[Placement]) -> bool:
    """Whether every model that stands for running replicas has as many of them as it asks for, each
    on its device with the same engine."""
    there = {p.replica_id: p for p in request.running}
    stay = by_key(
        (p.model, p)
        for p in placements
        if p.replica_id in there and same_engine(there[p.replica_id], p)
    )
    return all(
        len(stay[m.model]) == m.min_replicas for m in request.models if m.model.endswith(AS_IT_RUNS)
    )


def without_old_ones(placements: Sequence[Placement]) -> tuple[Placement, ...]:
    """Return the new replicas alone, under the names of the replicas that they replace."""
    old = (p for p in placements if p.model.endswith(AS_IT_RUNS))
    names = by_key((p.model.removesuffix(AS_IT_RUNS), p.replica_id) for p in old)
    return tuple(
        dataclasses.replace(p, replica_id=(names[p.model] or [p.replica_id]).pop(0))
        for p in placements
        if not p.model.endswith(AS_IT_RUNS)
    )


def with_own_names(placements: Iterable[Placement]) -> tuple[Placement, ...]:
    """Return the placements with running replicas under the names of their models."""
    found = []
    for p in placements:
        name = p.model.removesuffix(AS_IT_RUNS)
        candidate = dataclasses.replace(p.candidate, model=name)
        found.append(dataclasses.replace(p, model=name, candidate=candidate))
    return tuple(found)


def held_back_told(one: HeldBack) -> str:
    """Explain why a model stays as it runs, and what allowing an outage would gain."""
    lacks = one.missing_req_per_s
    if not one.seconds:
        return f"{one.model} stays as it runs until models with an outage are changed."
    gained = f" for the {lacks:.3g} requests/s that it lacks" if lacks else ""
    return (
        f"{one.model} stays as it runs: its new replicas have no room beside the old ones. With an "
        f"outage of about {one.seconds:.0f} s they can take their place{gained}: --allow-outage, "
        "or allow_outage in the model's spec."
    )
