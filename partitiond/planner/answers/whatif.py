"""Changes the world for what-ifs: models and devices, before candidates are made of them.

A dropped SLO therefore allows the operating points that it forbade, and a kind of device that was
not present gets estimates, with the same code that makes the plan itself.
"""

import collections
import dataclasses
import difflib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from partitiond.core.errors import InputError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.lookup import find_hardware
from partitiond.core.model.spec import NO_RULES, Demand, Isolation, ModelSpec
from partitiond.core.plan.record import ModelDemand, Objective, Plan
from partitiond.core.units import Bytes

ALL: Final = "*"
"""Stands for all models."""
ADDED_CORES: Final = 16
"""Host cores for engines on a GPU of a kind that was not present, as in fleet files."""
ADDED_PER_HOST: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """The inputs of a plan, before candidates are made."""

    specs: tuple[ModelSpec, ...]
    devices: tuple[Device, ...]
    objective: Objective

    def without(self, gone: Collection[str]) -> "World":
        """Return the world without the devices of these ids."""
        left = tuple(device for device in self.devices if device.id not in gone)
        return dataclasses.replace(self, devices=left)

    def respecified(self, model: str, respec: Callable[[ModelSpec], ModelSpec]) -> "World":
        """Return the world with the spec of one model, or of all models, changed."""
        if model != ALL:
            self.check_model(model)
        specs = tuple(respec(s) if model in (ALL, s.name) else s for s in self.specs)
        return dataclasses.replace(self, specs=specs)

    def check_model(self, name: str) -> None:
        """Check that a model exists. Raises InputError: there is no such model."""
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise InputError(f"there is no model {name!r}.", hint=suggestion(name, names))


Demands = Callable[[World], tuple[ModelDemand, ...]]
"""Makes the candidates of a world."""
Change = functools.partial[World]
"""One of the functions below, bound to its arguments. It takes the world and the current plan; by
that plan, devices that hold the least are removed first. Raises InputError if it names a model,
device or rule that does not exist."""


def set_demand(model: str, req_per_s: float | None, world: World, _plan: Plan | None) -> World:
    """Set another demand of one model, in requests/s; None for as much as there is.

    The new demand is the rate itself: a burst factor would change the planned rate.
    """
    return world.respecified(model, lambda spec: _plainly(spec, req_per_s))


def scale_demand(model: str, factor: float, world: World, _plan: Plan | None) -> World:
    """Multiply the demand of one model, or of all models."""

    def scaled(spec: ModelSpec) -> ModelSpec:
        rate = spec.demand.req_per_s
        more = dataclasses.replace(spec.demand, req_per_s=None if rate is None else rate * factor)
        return dataclasses.replace(spec, demand=more)

    found = world.respecified(model, scaled)
    if all(s.demand.req_per_s is None for s in world.specs if model in (ALL, s.name)):
        raise InputError(
            f"{model} wants as much as there is; that has no multiple.",
            hint=f'Write "demand {model}=50/s".',
        )
    return found


def drop_rule(model: str, rule: str, world: World, _plan: Plan | None) -> World:
    """Drop a rule of one model, or of all models."""
    found = world.respecified(model, lambda spec: without_rule(spec, rule))
    if found == world:
        who, what = ("no model", "a") if model == ALL else (model, "no")
        there = {
            known for spec in world.specs if model in (ALL, spec.name) for known in rules_of(spec)
        }
        raise InputError(f"{who} has {what} rule {rule}.", hint=suggestion(rule, there))
    return found


def drop_model(model: str, world: World, _plan: Plan | None) -> World:
    """Remove a model from those that are wanted."""
    world.check_model(model)
    left = tuple(spec for spec in world.specs if spec.name != model)
    return dataclasses.replace(world, specs=left)


def set_objective(objective: Objective, world: World, _plan: Plan | None) -> World:
    """Set another objective."""
    return dataclasses.replace(world, objective=objective)


_WITHOUT: Final[dict[str, dict[str, Any]]] = {
    "slo": {"slo": None},
    "isolation": {"isolation": Isolation.SHARED},
    "isolation_group": {"isolation_group": ""},
    "min_replicas": {"min_replicas": 0},
    "max_replicas": {"max_replicas": None},
}
RULES: Final = (*_WITHOUT, "avoid", "near", "only_on", "survive", "burst")
"""The rules of a model that can be dropped. `burst` is the demand's burst factor or percentile."""


def without_rule(spec: ModelSpec, rule: str) -> ModelSpec:
    """Return the model without one of its rules; unchanged if it has no such rule."""
    if rule == "burst":
        return _plainly(spec, spec.demand.req_per_s)
    if rule in _WITHOUT:
        return dataclasses.replace(spec, **_WITHOUT[rule])
    rules = dataclasses.replace(spec.rules, **{rule: getattr(NO_RULES, rule)})
    return dataclasses.replace(spec, rules=rules)


def rules_of(spec: ModelSpec) -> Iterator[str]:
    """Return the rules that a model has, by the names that `without rule` takes."""
    return (rule for rule in RULES if without_rule(spec, rule) != spec)


def _plainly(spec: ModelSpec, rate: float | None) -> ModelSpec:
    return dataclasses.replace(spec, demand=Demand(rate, weight=spec.demand.weight))


def add_devices(count: int, hardware: str, world: World, _plan: Plan | None) -> World:
    """Add devices of one kind, equal to present devices of that kind, on new hosts."""
    template = _template(world, hardware)
    if template.kind is DeviceKind.CPU:
        raise InputError("a CPU is no device that can be added.", hint='Add GPUs, as "+1 l4-24gb".')
    ids, hosts = {d.id for d in world.devices}, {d.host for d in world.devices}
    names = (f"{template.hardware}-new-{n}" for n in itertools.count())
    fresh = (name for name in names if name not in ids)
    new_hosts = (host for n in itertools.count() if (host := f"new-{n}") not in hosts)
    slots = ((host, slot) for host in new_hosts for slot in range(ADDED_PER_HOST))
    cores = len(template.cores)
    added = (
        dataclasses.replace(
            template,
            id=next(fresh),
            host=host,
            rack="",
            cores=tuple(range(slot * cores, (slot + 1) * cores)),
            free_bytes=Bytes(template.memory_bytes - template.reserved_bytes),
            core_nodes=(),
            cordoned=False,
            occupied_sm_percent=0,
            occupied_slices=(),
            mps_group=None,
            foreign=(),
            mig_instances=(),
            mig_fixed=False,
        )
        for host, slot in itertools.islice(slots, count)
    )
    return dataclasses.replace(world, devices=(*world.devices, *added))


def remove_devices(count: int, hardware: str, world: World, plan: Plan | None) -> World:
    """Remove devices of one kind: those that hold the least, of equal ones the last.

    The first devices stay because users know them.
    """
    kind = _kind_here(world, hardware)
    mine = [d for d in reversed(world.devices) if d.hardware == kind]
    if not mine:
        raise InputError(
            f"there is no device of the kind {hardware!r}.",
            hint=suggestion(hardware, {d.hardware for d in world.devices}),
        )
    if count > len(mine):
        raise InputError(
            f"there are only {len(mine)} of {kind}.",
            hint=f'Write "-{len(mine)} {kind}" to take them all away.',
        )
    held = collections.Counter[str]()
    for p in plan.placements if plan is not None else ():
        held[p.device_id] += p.partition.memory_bytes
    emptiest = sorted(mine, key=lambda device: held[device.id])
    return world.without({device.id for device in emptiest[:count]})


def lose(kind: str, name: str, world: World, _plan: Plan | None) -> World:
    """Remove a device, host or rack."""
    if kind == "device":
        return world.without({_device_named(world, name).id})
    gone = {device.id for device in world.devices if getattr(device, kind) == name}
    if not gone:
        known = {getattr(device, kind) for device in world.devices} - {""}
        raise InputError(f"there is no {kind} {name!r}.", hint=suggestion(name, known))
    return world.without(gone)


def limit_modes(
    modes: Collection[SharingMode], only: bool, world: World, _plan: Plan | None
) -> World:
    """Allow only these sharing modes on the GPUs, or forbid them."""
    limited = tuple(
        dataclasses.replace(d, modes=tuple(m for m in d.modes if (m in modes) == only))
        if d.kind is DeviceKind.GPU
        else d
        for d in world.devices
    )
    return dataclasses.replace(world, devices=limited)


def _template(world: World, text: str) -> Device:
    """Return a device of the kind that the text names: a present one, or one of the catalog."""
    there = _kind_here(world, text)
    if there is not None:
        return next(d for d in world.devices if d.hardware == there)
    spec, _ = find_hardware(text)
    return spec.device(spec.key, "new", tuple(range(ADDED_CORES)))


def _kind_here(world: World, text: str) -> str | None:
    """Return the hardware key of present devices, found by key, unique prefix, or alias."""
    kinds = sorted({d.hardware for d in world.devices})
    begin = [kind for kind in kinds if kind.startswith(text)]
    if text in kinds or len(begin) == 1:
        return text if text in kinds else begin[0]
    aliases = {a: spec.key for spec in HARDWARE.values() for a in (spec.key, *spec.aliases)}
    return aliases[text] if aliases.get(text) in kinds else None


def _device_named(world: World, name: str) -> Device:
    """Find a device by id, by a unique prefix of its id, or as "gpu-3" by a GPU's number."""
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


def suggestion(name: str, known: Collection[str], most: int = 8) -> str:
    """Return a hint for an unknown name: the closest known names, or the first few."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = sorted(known)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    if len(shown) <= 1:
        return f"There is only {shown[0]}." if shown else "There are none."
    return f"There are {', '.join(shown[:most])}{rest}."
