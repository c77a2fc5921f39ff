"""Plans for the observed demand, and computes which of today's devices each plan would free.

There are three plans: for the low end, the middle and the high end of every model's interval at
once. A device is certainly free if the plan for the high end does without it, and perhaps free if
only a plan for less does. It is less likely that all models are at their high end at once than that
one is, so "certain" errs on the safe side.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.advise.identify import Known, UnidentifiedModel
from partitiond.advise.today import Deployment
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.profile.record import Profile
from partitiond.planner.api import solve
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.draw import most_host_cores
from partitiond.planner.model.types import PlanRequest

LEVELS: Final = ("low", "middle", "high")

Solve = Callable[[PlanRequest], Plan | Infeasible]


@dataclasses.dataclass(frozen=True, slots=True)
class LevelPlan:
    """The plan for one end of the demand.

    Attributes:
        level: "low", "middle" or "high".
        plan: None if there is no plan at all.
        used: devices that the plan uses.
        freed: today's devices that the plan does without; empty if their engines are unknown.
        freed_count: number of these devices.
        lacking: why the plan serves less than the demand; such a plan frees nothing.
    """

    level: str
    plan: Plan | None
    used: tuple[str, ...]
    freed: tuple[str, ...]
    freed_count: int
    lacking: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """The observed deployment, and what a plan would save of it.

    Attributes:
        seconds: length of the observation.
        models: models that were planned.
        strangers: models that were not planned, and why.
        today: devices in use now; ids, or made-up names if it is unknown which.
        staying: devices that were left out of the plan, and why.
        certain, perhaps: devices freed by the plan for the high end, and only by one for less.
        certain_count, perhaps_count: their numbers; known even if the devices are unknown.
        levels: the plans, low to high; empty if nothing could be planned.
        told_apart: whether it is known which engine is on which device.
        notes: assumptions, and what to know before acting on the advice.
    """

    seconds: float
    models: tuple[Known, ...]
    strangers: tuple[UnidentifiedModel, ...]
    today: tuple[str, ...]
    staying: Mapping[str, str]
    certain: tuple[str, ...]
    perhaps: tuple[str, ...]
    certain_count: int
    perhaps_count: int
    levels: tuple[LevelPlan, ...]
    told_apart: bool
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The devices that may be planned over.

    Attributes:
        devices: devices to pack.
        in_use: number of devices with engines today.
        staying: devices left as they are, and why.
        stays: number of these, including those that are not known by name.
        told_apart: whether it is known which engine is on which device.
    """

    devices: tuple[Device, ...]
    in_use: int
    staying: Mapping[str, str]
    stays: int
    told_apart: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """How to plan.

    Attributes:
        created_at: ISO 8601, UTC.
        time_limit_seconds: time limit of each of the three plans.
        seed: seed of every random choice.
    """

    created_at: str
    time_limit_seconds: float = 5.0
    seed: int = 0


def scope_of(
    today: Deployment, known: Sequence[Known], strangers: Sequence[UnidentifiedModel]
) -> Scope:
    """Return which devices take part in planning.

    Devices of unknown models, and of engines that span several devices, do not take part: they stay
    as they are. If any engine's device is unknown, each such engine counts as one device.
    """
    seen = [m.traffic for m in known] + [m.traffic for m in strangers]
    addresses = {engine.key.address for traffic in seen for engine in traffic.engines}
    told_apart = bool(addresses) and all(address in today.on for address in addresses)
    staying: dict[str, str] = {}
    nameless = set()
    for stranger in strangers:
        for engine in stranger.traffic.engines:
            if engine.key.address not in today.on:
                nameless.add(engine.key.address)
            for device in today.on.get(engine.key.address, ()):
                staying[device] = f"serves {stranger.traffic.model}, which is not planned"
    for address in sorted(addresses):
        on = today.on.get(address, ())
        if len(on) > 1:
            for device in on:
                staying.setdefault(device, f"{address} spans {len(on)} devices")
    used = {device for address in addresses for device in today.on.get(address, ())}
    left = [d for d in today.devices if d.id not in staying and (not told_apart or d.id in used)]
    unknown = sum(1 for address in addresses if address not in today.on)
    in_use = len(used) if told_apart else min(len(today.devices), len(used) + unknown)
    return Scope(tuple(left), in_use, staying, len(staying) + len(nameless), told_apart)


def advise(
    today: Deployment,
    known: Sequence[Known],
    strangers: Sequence[UnidentifiedModel],
    profiles: Mapping[str, Sequence[Profile]],
    *,
    seconds: float,
    choices: Choices,
    solver: Solve = solve,
) -> Advice:
    """Return which of today's devices a plan would free.

    Args:
        today: devices, and which engine is on which.
        known: models to plan, with their traffic.
        strangers: models that cannot be planned.
        profiles: profiles by the name of each known model's spec.
        seconds: length of the observation.
        choices: how to plan.
        solver: makes a plan for a request.
    """
    scope = scope_of(today, known, strangers)
    levels: tuple[LevelPlan, ...] = ()
    if known and scope.devices:
        requests = {
            level: _request(level, scope.devices, known, profiles, choices) for level in LEVELS
        }
        levels = _levels(requests, scope, solver)
    high = levels[-1] if levels else None
    most = max((level.freed_count for level in levels), default=0)
    certain = high.freed if high else ()
    ever = {device for level in levels for device in level.freed}
    return Advice(
        seconds=seconds,
        models=tuple(known),
        strangers=tuple(strangers),
        today=_in_use(today, scope),
        staying=scope.staying,
        certain=certain,
        perhaps=tuple(d.id for d in today.devices if d.id in ever - set(certain)),
        certain_count=high.freed_count if high else 0,
        perhaps_count=most - high.freed_count if high else 0,
        levels=levels,
        told_apart=scope.told_apart,
        notes=(*today.notes, *notes_on(known, seconds)),
    )


def _in_use(today: Deployment, scope: Scope) -> tuple[str, ...]:
    if scope.told_apart:
        used = {device for on in today.on.values() for device in on}
        return tuple(d.id for d in today.devices if d.id in used)
    return tuple(f"device {n + 1}" for n in range(scope.in_use))


def _request(
    level: str,
    devices: tuple[Device, ...],
    known: Sequence[Known],
    profiles: Mapping[str, Sequence[Profile]],
    choices: Choices,
) -> PlanRequest:
    keys = tuple({d.hardware for d in devices})
    return PlanRequest(
        devices=devices,
        models=tuple(
            candidates_for(
                model.at(getattr(model.traffic.planned, level)),
                profiles.get(model.spec.name, ()),
                keys,
                most_cores=most_host_cores(devices),
            )
            for model in known
        ),
        time_limit_seconds=choices.time_limit_seconds,
        seed=choices.seed,
        plan_id=f"advise-{level}",
        created_at=choices.created_at,
    )


def _levels(
    requests: Mapping[str, PlanRequest], scope: Scope, solver: Solve
) -> tuple[LevelPlan, ...]:
    """Plan from high to low: a plan for more demand also serves less, and may use fewer devices."""
    found: list[LevelPlan] = []
    for level in reversed(LEVELS):
        mine = _level(level, solver(requests[level]), scope)
        more = found[-1] if found else mine
        if not more.lacking and (mine.lacking or len(mine.used) > len(more.used)):
            mine = dataclasses.replace(more, level=level)
        found.append(mine)
    return tuple(reversed(found))


def _level(level: str, plan: Plan | Infeasible, scope: Scope) -> LevelPlan:
    if isinstance(plan, Infeasible):
        return LevelPlan(level, None, (), (), 0, plan.reasons)
    holding = {placement.device_id for placement in plan.placements}
    used = tuple(d.id for d in scope.devices if d.id in holding)
    lacking = tuple(f"{missing.model}: {missing.reason}" for missing in plan.unplaced)
    if lacking:
        return LevelPlan(level, plan, used, (), 0, lacking)
    count = max(0, scope.in_use - scope.stays - len(used))
    freed = tuple(d.id for d in scope.devices if d.id not in holding) if scope.told_apart else ()
    return LevelPlan(level, plan, used, freed, count, ())


# --- what to know before acting on a plan -------------------------------------------------------

SHORT_SECONDS: Final = 3600.0
"""A shorter observation says nothing about another hour of the day. Chosen, not measured."""


def notes_on(known: Collection[Known], seconds: float) -> tuple[str, ...]:
    """Return notes on observations that limit what the plans mean."""
    notes = []
    if seconds < SHORT_SECONDS:
        notes.append(
            f"Watched for {seconds / 60:.1f} minutes: what comes at other hours is not in it. "
            "Watch for longer, as a day (--minutes 1440)."
        )
    for model in known:
        notes += [f"{model.spec.name}: {note}" for note in (*model.notes, *_seen(model))]
    return tuple(notes)


def _seen(model: Known) -> list[str]:
    traffic, found = model.traffic, []
    restarts = sum(e.restarts for e in traffic.engines)
    refused = sum(e.refused for e in traffic.engines)
    if traffic.seen.arrivals <= 0:
        found.append("no request came: one replica is kept, for the most that may have been missed")
    if restarts:
        found.append(f"{restarts} restart(s) of its engines; what they lost is not counted")
    if refused:
        found.append(f"{refused:.0f} requests were refused; they count as demand")
    return found
