"""What-if: a changed world. Changes act on models and devices, before candidates are made of them.

That way a dropped SLO gives the operating points that it forbade, and a kind of device that was
not there gets estimates, with the same code that the plan itself is made with.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from partitiond.core.errors import InputError, PartitiondError
from partitiond.core.hardware import HARDWARE, Device, DeviceKind, find_hardware
from partitiond.core.plan import ModelDemand, Objective, Plan
from partitiond.core.spec import Demand, Isolation, ModelSpec
from partitiond.core.units import Bytes
from partitiond.planner.changes import (
    ALL,
    AddDevices,
    Change,
    DropModel,
    DropRule,
    Lose,
    Modes,
    RemoveDevices,
    ScaleDemand,
    SetDemand,
    SetObjective,
    parse_changes,
    suggestion,
)

ADDED_CORES: Final = 16
"""Host cores for the engines of a GPU of a kind that was not there, as in fleet files."""
ADDED_PER_HOST: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What a plan is made from, before candidates."""

    specs: tuple[ModelSpec, ...]
    devices: tuple[Device, ...]
    objective: Objective


Demands = Callable[[World], tuple[ModelDemand, ...]]
"""Makes the candidates of a world."""


def changed(world: World, changes: Sequence[Change], plan: Plan | None = None) -> World:
    """The world after the changes, one after the other.

    Args:
        world: what is.
        changes: see `planner.changes`.
        plan: of what is; of devices to be taken away those that hold the least are taken.

    Raises:
        InputError: a change names a model, device or rule that is not there.
    """
    for change in changes:
        world = _changed(world, change, plan)
    return world


def world_under(text: str, world: World, plan: Plan | None = None) -> World:
    """The world under a what-if as it was written.

    Raises:
        InputError: it cannot be read, names what is not there, or gives a model a value that no
            model can have; the message names the what-if.
    """
    changes = parse_changes(text)
    try:
        return changed(world, changes, plan)
    except PartitiondError as error:
        raise InputError(
            f"the what-if {text!r}: {error.message}", hint=error.hint, facts=error.facts
        ) from error


def _changed(world: World, change: Change, plan: Plan | None) -> World:
    match change:
        case AddDevices():
            return dataclasses.replace(world, devices=(*world.devices, *_added(world, change)))
        case RemoveDevices():
            return dataclasses.replace(world, devices=_removed(world, change, plan))
        case Lose():
            return dataclasses.replace(world, devices=_without(world, change))
        case Modes():
            devices = tuple(_limited(device, change) for device in world.devices)
            return dataclasses.replace(world, devices=devices)
        case SetObjective(objective=objective):
            return dataclasses.replace(world, objective=objective)
        case DropModel(model=name):
            _check_model(world, name)
            return dataclasses.replace(world, specs=tuple(s for s in world.specs if s.name != name))
        case SetDemand() | ScaleDemand() | DropRule():
            return _respecified(world, change)


def _respecified(world: World, change: SetDemand | ScaleDemand | DropRule) -> World:
    if change.model != ALL:
        _check_model(world, change.model)
    if isinstance(change, ScaleDemand) and not _rated(world, change.model):
        raise InputError(
            f"{change.model} wants as much as there is; that has no multiple.",
            hint=f'Write "demand {change.model}=50/s".',
        )
    specs = tuple(
        _respec(spec, change) if change.model in (ALL, spec.name) else spec for spec in world.specs
    )
    if isinstance(change, DropRule) and specs == world.specs:
        who = "no model" if change.model == ALL else change.model
        raise InputError(
            f"{who} has {'a' if change.model == ALL else 'no'} rule {change.rule}.",
            hint="`partitiond plan --constraints` lists the rules there are.",
        )
    return dataclasses.replace(world, specs=specs)


def _rated(world: World, model: str) -> bool:
    return any(
        spec.demand.planned_req_per_s is not None
        for spec in world.specs
        if model in (ALL, spec.name)
    )


def _check_model(world: World, name: str) -> None:
    names = [spec.name for spec in world.specs]
    if name not in names:
        raise InputError(f"there is no model {name!r}.", hint=suggestion(name, names))


def _respec(spec: ModelSpec, change: SetDemand | ScaleDemand | DropRule) -> ModelSpec:
    match change:
        case SetDemand(req_per_s=rate):
            # What is asked for is the rate itself: a burst factor would plan for another one.
            plain = Demand(rate, weight=spec.demand.weight)
            return dataclasses.replace(spec, demand=plain)
        case ScaleDemand(factor=factor):
            rate = spec.demand.req_per_s
            if rate is None:
                return spec
            more = dataclasses.replace(spec.demand, req_per_s=rate * factor)
            return dataclasses.replace(spec, demand=more)
        case DropRule(rule=rule):
            return without_rule(spec, rule)


def without_rule(spec: ModelSpec, rule: str) -> ModelSpec:
    """The model without one of its rules; itself where it has no such rule."""
    match rule:
        case "slo":
            return dataclasses.replace(spec, slo=None)
        case "isolation":
            return dataclasses.replace(spec, isolation=Isolation.SHARED)
        case "min_replicas":
            return dataclasses.replace(spec, min_replicas=0)
        case "max_replicas":
            return dataclasses.replace(spec, max_replicas=None)
        case "burst":
            plain = Demand(spec.demand.req_per_s, weight=spec.demand.weight)
            return dataclasses.replace(spec, demand=plain)
        case "survive":
            rules = dataclasses.replace(spec.rules, survive=None, survive_share=1.0)
            return dataclasses.replace(spec, rules=rules)
        case _:
            names: dict[str, Any] = {rule: ()}
            return dataclasses.replace(spec, rules=dataclasses.replace(spec.rules, **names))


# --- devices -----------------------------------------------------------------------------------


def _added(world: World, change: AddDevices) -> list[Device]:
    """New devices, like those of their kind that are there, on new hosts."""
    template = _template(world, change.hardware)
    if template.kind is DeviceKind.CPU:
        raise InputError("a CPU is no device that can be added.", hint='Add GPUs, as "+1 l4-24gb".')
    ids, hosts = {d.id for d in world.devices}, {d.host for d in world.devices}
    names = (f"{template.hardware}-new-{n}" for n in itertools.count())
    fresh = (name for name in names if name not in ids)
    new_hosts = (host for n in itertools.count() if (host := f"new-{n}") not in hosts)
    cores, host = len(template.cores), ""
    found: list[Device] = []
    for number in range(change.count):
        slot = number % ADDED_PER_HOST
        host = next(new_hosts) if slot == 0 else host
        first = slot * cores
        found.append(
            dataclasses.replace(
                template,
                id=next(fresh),
                host=host,
                rack="",
                cores=tuple(range(first, first + cores)),
                free_bytes=Bytes(template.memory_bytes - template.reserved_bytes),
                core_nodes=(),
                cordoned=False,
                occupied_sm_percent=0,
                occupied_slices=(),
                foreign=(),
                mig_instances=(),
                mig_fixed=False,
            )
        )
    return found


def _template(world: World, text: str) -> Device:
    """A device of the kind that the text names: one that is there, or one of the catalog."""
    there = _kind_here(world, text)
    if there is not None:
        return next(d for d in world.devices if d.hardware == there)
    spec, _ = find_hardware(text)
    return Device(
        id=spec.key,
        kind=spec.kind,
        hardware=spec.key,
        name=spec.key,
        host="new",
        memory_bytes=spec.memory_bytes,
        free_bytes=spec.memory_bytes,
        cores=tuple(range(ADDED_CORES)),
        sm_count=spec.sm_count,
        modes=spec.modes,
    )


def _kind_here(world: World, text: str) -> str | None:
    """The hardware key of devices that are there, by key, the beginning of one, or an alias."""
    kinds = sorted({d.hardware for d in world.devices})
    if text in kinds:
        return text
    begin = [kind for kind in kinds if kind.startswith(text)]
    if len(begin) == 1:
        return begin[0]
    aliases = {a: spec.key for spec in HARDWARE.values() for a in (spec.key, *spec.aliases)}
    return aliases[text] if aliases.get(text) in kinds else None


def _removed(world: World, change: RemoveDevices, plan: Plan | None) -> tuple[Device, ...]:
    kind = _kind_here(world, change.hardware)
    mine = [d for d in world.devices if d.hardware == kind]
    if not mine:
        kinds = {d.hardware for d in world.devices}
        raise InputError(
            f"there is no device of the kind {change.hardware!r}.",
            hint=suggestion(change.hardware, kinds),
        )
    if change.count > len(mine):
        raise InputError(
            f"there are only {len(mine)} of {kind}.",
            hint=f'Write "-{len(mine)} {kind}" to take them all away.',
        )
    held: dict[str, int] = {}
    for p in plan.placements if plan is not None else ():
        held[p.device_id] = held.get(p.device_id, 0) + p.partition.memory_bytes
    # The last ones first among equals: the first ones are what people know.
    order = sorted(enumerate(mine), key=lambda pair: (held.get(pair[1].id, 0), -pair[0]))
    gone = {device.id for _, device in order[: change.count]}
    return tuple(d for d in world.devices if d.id not in gone)


def _without(world: World, change: Lose) -> tuple[Device, ...]:
    if change.kind == "device":
        gone = {_device_named(world, change.name).id}
    else:
        field = {d.id: getattr(d, change.kind) for d in world.devices}
        gone = {device_id for device_id, value in field.items() if value == change.name}
        if not gone:
            raise InputError(
                f"there is no {change.kind} {change.name!r}.",
                hint=suggestion(change.name, {value for value in field.values() if value}),
            )
    return tuple(d for d in world.devices if d.id not in gone)


def _device_named(world: World, name: str) -> Device:
    """By id, by the beginning of just one id, or as "gpu-3" for the GPU with that number."""
    exact = [d for d in world.devices if d.id == name]
    begin = [d for d in world.devices if d.id.startswith(name)]
    found = exact or (begin if len(begin) == 1 else [])
    if not found and name.lower().startswith("gpu-") and name[4:].isdecimal():
        gpus = [d for d in world.devices if d.kind is DeviceKind.GPU]
        found = gpus[int(name[4:]) :][:1] if len(name) < 12 else []
    if not found:
        raise InputError(
            f"there is no device {name!r}.", hint=suggestion(name, {d.id for d in world.devices})
        )
    return found[0]


def _limited(device: Device, change: Modes) -> Device:
    if device.kind is not DeviceKind.GPU:
        return device
    modes = tuple(m for m in device.modes if (m in change.modes) == change.only)
    return dataclasses.replace(device, modes=modes)
