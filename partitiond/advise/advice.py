"""Plans for the observed demand, and compares the plan with today's devices."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.advise.identify import Known, UnidentifiedModel
from partitiond.advise.traffic import ObservedTraffic
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Infeasible, Plan

Solve = Callable[[Sequence[Known], Sequence[Device]], Plan | Infeasible]
"""Plans models on devices."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """What runs today.

    Attributes:
        devices: devices of the deployment.
        on: device ids by engine address.
        missed: why an address told nothing at the second look, by address.
        known: models to plan, with their traffic.
        strangers: models that cannot be planned.
        seconds: length of the observation.
        notes: assumptions that were made.
    """

    devices: tuple[Device, ...]
    on: Mapping[str, tuple[str, ...]]
    missed: Mapping[str, str]
    known: tuple[Known, ...]
    strangers: tuple[UnidentifiedModel, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def seen(self) -> tuple[ObservedTraffic, ...]:
        """Traffic of all models."""
        return (*(m.traffic for m in self.known), *(s.traffic for s in self.strangers))

    @property
    def used(self) -> tuple[str, ...]:
        """Ids of the devices that have an engine."""
        used = {device for on in self.on.values() for device in on}
        return tuple(d.id for d in self.devices if d.id in used)


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """The plan for an observed deployment.

    Attributes:
        today: the deployment.
        staying: devices that were left out of the plan, and why.
        plan: None if there is no plan at all.
        lacking: why the plan serves less than the demand; such a plan frees nothing.
        freed: today's devices that the plan does without.
        notes: what to know before acting on the advice.
    """

    today: Deployment
    staying: Mapping[str, str]
    plan: Plan | None
    lacking: tuple[str, ...]
    freed: tuple[str, ...]
    notes: tuple[str, ...]


def staying_of(today: Deployment) -> dict[str, str]:
    """Return the devices that stay as they are, and why.

    These are devices of unknown models, of engines that span several devices, and of engines whose
    model was not seen at both looks.
    """
    staying: dict[str, str] = {}
    seen = {engine.address for traffic in today.seen for engine in traffic.engines}
    for stranger in today.strangers:
        for engine in stranger.traffic.engines:
            for device in today.on[engine.address]:
                staying[device] = f"serves {stranger.traffic.model}, which is not planned"
    for address, on in sorted(today.on.items()):
        for device in on:
            if len(on) > 1:
                staying.setdefault(device, f"{address} spans {len(on)} devices")
            if address not in seen:
                why = today.missed.get(address, "serves another model than at the first look")
                staying.setdefault(device, f"{address} {why}")
    return staying


def advise(today: Deployment, solver: Solve) -> Advice:
    """Return which of today's devices a plan would free.

    Args:
        today: what runs today.
        solver: makes the plan.
    """
    staying = staying_of(today)
    devices = tuple(d for d in today.devices if d.id in today.used and d.id not in staying)
    notes = (*today.notes, *notes_on(today.known, today.seconds))
    if not today.known or not devices:
        return Advice(today, staying, None, (), (), notes)
    plan = solver(today.known, devices)
    if isinstance(plan, Infeasible):
        return Advice(today, staying, None, plan.reasons, (), notes)
    lacking = tuple(f"{missing.model}: {missing.reason}" for missing in plan.unplaced)
    holding = {placement.device_id for placement in plan.placements}
    freed = () if lacking else tuple(d.id for d in devices if d.id not in holding)
    return Advice(today, staying, plan, lacking, freed, notes)


# --- what to know before acting on a plan -------------------------------------------------------

SHORT_SECONDS: Final = 3600.0
"""A shorter observation says nothing about another hour of the day. Chosen, not measured."""


def notes_on(known: Collection[Known], seconds: float) -> tuple[str, ...]:
    """Return notes on observations that limit what the plan means."""
    notes = []
    if seconds < SHORT_SECONDS:
        notes.append(
            f"Watched for {seconds / 60:.1f} minutes: what comes at other hours is not in it. "
            "Watch for longer, as a day (--minutes 1440)."
        )
    for model in known:
        notes += [f"{model.spec.name}: {note}" for note in (*model.notes, *_seen(model))]
    return tuple(notes)


def _seen(model: Known) -> Sequence[str]:
    traffic, found = model.traffic, []
    if traffic.rate.middle <= 0:
        found.append("no request came: one replica is kept, for the most that may have been missed")
    if traffic.restarts:
        found.append(f"{traffic.restarts} restart(s) of its engines; what they lost is not counted")
    if traffic.refused:
        found.append(f"{traffic.refused:.0f} requests were refused; they count as demand")
    return found
