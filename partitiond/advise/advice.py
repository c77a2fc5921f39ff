"""Plans for the observed demand, and what each would free of today's devices.

Three plans: for the low end, the middle and the high end of every model's interval at once. A
device is free for certain when the plan for the high end does without it, and perhaps when only a
plan for less does. All models at their high end together is less likely than one alone, so
"certain" is meant on the safe side.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.advise.identify import Known, Stranger
from partitiond.advise.today import Today
from partitiond.core.hardware import Device
from partitiond.core.plan import Infeasible, Objective, Plan
from partitiond.core.profile import Profile
from partitiond.planner.api import solve
from partitiond.planner.candidates import candidates_for
from partitiond.planner.types import PlanRequest

LEVELS: Final = ("low", "middle", "high")

Solve = Callable[[PlanRequest], Plan | Infeasible]


@dataclasses.dataclass(frozen=True, slots=True)
class LevelPlan:
    """The plan for one end of the demand.

    Attributes:
        level: "low", "middle" or "high".
        plan: None where there is none at all.
        used: devices it uses.
        freed: devices of today that it does without; empty where they cannot be told apart.
        freed_count: how many those are.
        lacking: why it serves less than the demand; such a plan frees nothing.
    """

    level: str
    plan: Plan | None
    used: tuple[str, ...]
    freed: tuple[str, ...]
    freed_count: int
    lacking: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """What was seen, and what a plan would save of it.

    Attributes:
        seconds: how long the deployment was watched.
        models: those that were planned.
        strangers: those that were not, and why.
        today: devices in use now; ids, or made-up places where it is not known which.
        staying: devices that were left out of the plan, and why.
        certain, perhaps: devices freed by the plan for the high end, and only by one for less.
        certain_count, perhaps_count: how many; known even where it is not known which.
        levels: the plans, low to high; empty where nothing could be planned.
        told_apart: it is known which engine is on which device.
        busy: share of the time each device was working; only where something told.
        notes: what was assumed, and what to know before acting on it.
    """

    seconds: float
    models: tuple[Known, ...]
    strangers: tuple[Stranger, ...]
    today: tuple[str, ...]
    staying: Mapping[str, str]
    certain: tuple[str, ...]
    perhaps: tuple[str, ...]
    certain_count: int
    perhaps_count: int
    levels: tuple[LevelPlan, ...]
    told_apart: bool
    busy: Mapping[str, float]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """What may be planned over.

    Attributes:
        devices: to be packed, the busiest first: what is freed is then what does least.
        in_use: how many devices engines are on today.
        staying: devices left as they are, and why.
        stays: how many those are, with those that are not known by name.
        told_apart: it is known which engine is on which device.
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
        time_limit_seconds: for each of the three plans.
        objective: a cost; what counts as least.
        burst_factor: peak over mean within the busiest window.
        seed: of every random choice.
    """

    created_at: str
    time_limit_seconds: float = 5.0
    objective: Objective = Objective.MIN_DEVICES
    burst_factor: float = 1.0
    seed: int = 0


def scope_of(today: Today, known: Sequence[Known], strangers: Sequence[Stranger]) -> Scope:
    """Which devices take part.

    Out of it are devices of models that are not known, and of engines that span several: they go
    on as they are. Where any engine's device is not known, each engine counts as one device.
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
    order = sorted(today.devices, key=lambda d: (-today.busy.get(d.id, 0.0), d.host))
    left = [d for d in order if d.id not in staying and (not told_apart or d.id in used)]
    unknown = sum(1 for address in addresses if address not in today.on)
    in_use = len(used) if told_apart else min(len(today.devices), len(used) + unknown)
    return Scope(tuple(left), in_use, staying, len(staying) + len(nameless), told_apart)


def advise(
    today: Today,
    known: Sequence[Known],
    strangers: Sequence[Stranger],
    profiles: Mapping[str, Sequence[Profile]],
    *,
    seconds: float,
    choices: Choices,
    solver: Solve = solve,
) -> Advice:
    """What a plan would free of today's devices.

    Args:
        today: devices, and which engine is on which.
        known: models to plan, with what came for them.
        strangers: models that cannot be planned.
        profiles: by the name of each known model's spec.
        seconds: how long the deployment was watched.
        choices: how to plan.
        solver: makes a plan of a request.
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
        busy=today.busy,
        notes=(*today.notes, *notes_on(known, seconds)),
    )


def _in_use(today: Today, scope: Scope) -> tuple[str, ...]:
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
                model.at(getattr(model.traffic.planned, level), choices.burst_factor),
                profiles.get(model.spec.name, ()),
                keys,
            )
            for model in known
        ),
        objective=choices.objective,
        time_limit_seconds=choices.time_limit_seconds,
        seed=choices.seed,
        plan_id=f"advise-{level}",
        created_at=choices.created_at,
    )


def _levels(
    requests: Mapping[str, PlanRequest], scope: Scope, solver: Solve
) -> tuple[LevelPlan, ...]:
    """Plans from high to low: a plan for more serves less, too, and may use fewer devices."""
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


# --- what to know before acting on it ---------------------------------------------------------

SHORT_SECONDS: Final = 3600.0
"""Less than this says nothing about another hour of the day."""
ABORTED: Final = 0.05
"""Share of requests given up by their clients that is worth a word."""


PREFIX_HITS: Final = 0.1
"""Share of prompt tokens that the prefix cache saved that is worth a word."""


def notes_on(known: Collection[Known], seconds: float) -> tuple[str, ...]:
    """What was seen that limits what the plans mean."""
    notes = []
    if seconds < SHORT_SECONDS:
        notes.append(
            f"Watched for {seconds / 60:.1f} minutes: what comes at other hours is not in it. "
            "Ask a Prometheus for a day or a week (--prometheus URL --range 7d)."
        )
    for model in known:
        notes += [f"{model.spec.name}: {note}" for note in (*model.notes, *_seen(model))]
    return tuple(notes)


def _seen(model: Known) -> list[str]:
    traffic, found = model.traffic, []
    ended = sum(e.ended for e in traffic.engines)
    restarts = sum(e.restarts for e in traffic.engines)
    refused = sum(e.refused for e in traffic.engines)
    preempted = sum(e.preempted for e in traffic.engines)
    aborted = sum(e.aborted for e in traffic.engines)
    if traffic.busiest.arrivals <= 0:
        found.append("no request came: one replica is kept, for the most that may have been missed")
    if restarts:
        found.append(f"{restarts} restart(s) of its engines; what they lost is not counted")
    if refused:
        found.append(f"{refused:.0f} requests were refused; they count as demand")
    if preempted > 0.01 * max(1.0, ended):
        found.append(f"{preempted:.0f} preemptions: its KV cache is too small today")
    if aborted > ABORTED * max(1.0, ended):
        found.append(f"{aborted / ended:.0%} of its requests were given up by their clients")
    asked = sum(e.prefix_asked for e in traffic.engines)
    cached = sum(e.prefix_found for e in traffic.engines)
    if asked and cached > PREFIX_HITS * asked:
        found.append(
            f"{cached / asked:.0%} of its prompt tokens came from the prefix cache; the plan "
            "counts on none, so it may need less"
        )
    return found
