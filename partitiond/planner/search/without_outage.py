"""Makes plans that leave no model without a replica while they are applied.

If a plan would cause an outage that is not allowed, the planner solves again. First it adds the
running replicas of such a model as a further model that has to stay. The new replicas then stand
beside the old ones, on an idle device if necessary, and the old ones are stopped once the new ones
serve. If there is no room for that, the model stays as it runs, and the plan says so.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from partitiond.core.hardware.partition import way_of
from partitiond.core.model.demand import ANY_DEMAND
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.diff import DiffCost, diff_cost
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import (
    HeldBack,
    Infeasible,
    ModelDemand,
    Placement,
    PlanDiff,
    diff_plans,
    same_engine,
)
from partitiond.core.plan.start_order import StartGains
from partitiond.core.replica.make_before_break import beside_what_runs
from partitiond.planner.model.types import PlanRequest

AS_IT_RUNS: Final = " as it runs"
"""Suffix of the name that stands for a model's running replicas; no model's name has a space."""
OUTAGE: Final = 2
"""The strongest objection to a plan: a model has no replica for a while, which is not allowed."""


def forbidden_outages(
    request: PlanRequest, placements: tuple[Placement, ...]
) -> tuple[Outage, ...]:
    """Return the outages that applying the placements would cause and that are not allowed."""
    if request.allow_outage or not request.running:
        return ()
    allowed = {demand.model for demand in request.models if demand.allow_outage}
    here = beside_what_runs(placements, request.running, request.devices)
    diff = diff_plans(request.running, here)
    replaced = {p.model for p in (*diff.stop, *(old for old, _ in diff.move))}
    replaced -= {p.model for p in diff.keep} | allowed
    if not replaced & {p.model for p in here}:
        return ()  # each such model keeps a replica, or is not wanted any more
    return tuple(outage for outage in _takes(request, diff).outages if outage.model in replaced)


def spoken_against(request: PlanRequest, placements: tuple[Placement, ...]) -> int:
    """Return the strongest objection to a plan: OUTAGE, 1 for a needless stop, 0 for none.

    A stop is needless if a replica has to end before its replacement can start although a device
    of the same kind is idle before and after.
    """
    if not all_stay(request, placements) or forbidden_outages(request, placements):
        return OUTAGE
    if not request.move_price:
        return 0  # the request asks for the best plan, whatever it moves
    busy = {p.device_id for p in (*request.running, *placements)}
    kinds = {d.id: d.hardware for d in request.devices}
    idle = {d.hardware for d in request.devices if d.id not in busy and not d.cordoned}
    if not idle:
        return 0
    here = beside_what_runs(placements, request.running, request.devices)
    steps = _takes(request, diff_plans(request.running, here)).steps
    return int(any(s.makes_way and kinds.get(s.device_id) in idle for s in steps))


def _takes(request: PlanRequest, diff: PlanDiff) -> DiffCost:
    planned = {m.model: m.demand.planned_req_per_s for m in request.models}
    stakes = StartGains(
        demands={name: rate for name, rate in planned.items() if rate is not None},
        weights={m.model: m.planned_weight for m in request.models},
    )
    return diff_cost(diff, request.devices, dict(request.start_seconds), stakes)


def with_old_ones(request: PlanRequest, models: Collection[str], *, and_new: bool) -> PlanRequest:
    """Return the request with the running replicas of some models as models that have to stay.

    Args:
        models: models with running replicas.
        and_new: True asks for those models as well; False leaves them as they run.
    """
    devices = {device.id for device in request.devices if not device.cordoned}
    here = (p for p in request.running if p.model in models and p.device_id in devices)
    old = by_key((p.model, p) for p in here)
    asked = (m for m in request.models if and_new or m.model not in old)
    stays = (_stays(old[m.model], m) for m in request.models if m.model in old)
    return dataclasses.replace(
        request,
        models=(*asked, *stays),
        running=tuple(_renamed(p) if p.model in old else p for p in request.running),
    )


def _renamed(placement: Placement) -> Placement:
    name = placement.model + AS_IT_RUNS
    candidate = dataclasses.replace(placement.candidate, model=name)
    return dataclasses.replace(placement, model=name, candidate=candidate)


def _stays(running: list[Placement], model: ModelDemand) -> ModelDemand:
    """Return a demand for exactly the running replicas of a model."""
    here = [_renamed(p).candidate for p in running]
    name, number, sizes = here[0].model, len(here), tuple(dict.fromkeys(here))
    group = max(way_of(p.partition)[1] for p in running)  # under MPS, that of its engines
    return ModelDemand(
        name, ANY_DEMAND, sizes, number, number, model.isolation, isolation_group=group
    )


def all_stay(request: PlanRequest, placements: Iterable[Placement]) -> bool:
    """Whether every stand-in for a running replica stays on its device with the same engine."""
    there = {p.replica_id: p for p in placements}
    return all(
        p.replica_id in there and same_engine(p, there[p.replica_id])
        for p in request.running
        if p.model.endswith(AS_IT_RUNS)
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


def with_own_names(
    placements: Iterable[Placement], running: Iterable[Placement]
) -> tuple[Placement, ...]:
    """Return the placements with the running replicas in place of their stand-ins."""
    own = {p.replica_id: p for p in running}
    return tuple(own[p.replica_id] if p.model.endswith(AS_IT_RUNS) else p for p in placements)


def held_back_told(one: HeldBack) -> str:
    """Explain why a model stays as it runs, and what allowing an outage would gain."""
    lacks = one.missing_req_per_s
    gained = f" for the {lacks:.3g} requests/s that it lacks" if lacks else ""
    return (
        f"{one.model} stays as it runs: its new replicas have no room beside the old ones. With an "
        f"outage of about {one.seconds:.0f} s they can take their place{gained}: --allow-outage, "
        "or allow_outage in the model's spec."
    )


def not_without_outage(coming: Iterable[Outage]) -> Infeasible:
    """Report that new replicas have no room beside the running ones, and those cannot all stay."""
    return Infeasible(
        tuple(
            f"{outage.model} would have no replica for about {outage.seconds:.0f} s: its new "
            "replicas have no room beside the old ones, and those cannot stay as they run."
            for outage in coming
        ),
        ("Allow the outage: --allow-outage, or allow_outage in the spec of these models.",),
    )
