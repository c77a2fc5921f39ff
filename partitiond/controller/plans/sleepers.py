"""Adds sleeping models to plans: they stay where they are, and sentences explain that. Pure."""

import dataclasses

from partitiond.controller.plans.situation import Situation
from partitiond.core.plan.record import Plan, Unplaced
from partitiond.core.replica.sleep import STOPPED, Sleeper, asleep_partition, host_bytes
from partitiond.core.units import format_bytes


def beside_sleepers(plan: Plan, situation: Situation, applied: Plan | None) -> Plan:
    """Return the plan with the sleepers that it was made around.

    Its devices are whole devices of the host again: running engines are held to what the device
    has, not to what sleepers and profile jobs left of it when the plan was made.
    """
    whole = {device.id: device for device in situation.devices}
    devices = tuple(whole.get(device.id, device) for device in plan.devices)
    return dataclasses.replace(
        plan,
        devices=devices,
        asleep=tuple(sleeper.placement for sleeper in situation.sleepers),
        unplaced=tuple(_with_reason(u, situation, applied) for u in plan.unplaced),
        explanation=(*plan.explanation, *_sentences(situation.sleepers)),
    )


def _with_reason(unplaced: Unplaced, situation: Situation, applied: Plan | None) -> Unplaced:
    """Add to the reason, for a model that wakes and has no room any more, where its room went."""
    gave = {p.model for p in (applied.asleep if applied is not None else ())}
    if unplaced.model not in gave or unplaced.model in dict(situation.asleep):
        return unplaced
    reason = f"the room it left when it was put to sleep was given away; {unplaced.reason}"
    remedy = unplaced.remedy or "Put another model to sleep, or lower a demand."
    return dataclasses.replace(unplaced, reason=reason, remedy=remedy)


def _sentences(here: tuple[Sleeper, ...]) -> tuple[str, ...]:
    found = []
    for model in sorted({sleeper.placement.model for sleeper in here}):
        own = [sleeper for sleeper in here if sleeper.placement.model == model]
        device = sum(asleep_partition(s.placement, s.level).memory_bytes for s in own)
        host = sum(host_bytes(s.placement, s.level) for s in own)
        beside = f" and {format_bytes(host)} of host memory" if host else ""
        level = own[0].level
        state = "is scaled to zero" if level == STOPPED else f"is asleep (level {level})"
        found.append(
            f"{model} {state}: it serves nothing, and its {len(own)} "
            f"replica(s) hold {format_bytes(device)} of device memory{beside} where they are."
        )
    return tuple(found)
