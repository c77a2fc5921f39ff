"""Plans a described fleet without a daemon, an engine or a GPU: everything is estimated."""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.lookup import mig_profile
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.recognised import recognised
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.fleet.estimates import estimate, kinds_of, sizes
from partitiond.fleet.file import Fleet
from partitiond.models.catalog import entry_of
from partitiond.planner.model.candidates import asked, candidates_for
from partitiond.planner.model.draw import most_host_cores
from partitiond.planner.model.types import PlanRequest

SPARE: Final = 2.0
"""A single replica with at least this many times the whole demand is as good as a larger one: even
after the losses between replicas that share a device, it serves more than the demand."""
KEPT: Final = 1
"""Ample candidates kept for each kind of device and way to share it: the ones that take the least
of the device."""
MANY_MODELS: Final = 1000
FEW_RATIO: Final = 2.0
"""From `MANY_MODELS` models on, each size of a device is at least so many times the next smaller
one: more sizes hardly change a plan of thousands of models, but slow down estimates and search."""

MAX_PAIRS: Final = 10_000 * 4_096
"""Most models times devices of a fleet file. With 5,000 models on 1,000 devices, computing bounds
took more than a minute beyond any time limit."""

ArchitectureOf = Callable[[ModelSpec], Architecture | None]
OnEstimate = Callable[[int, int], None]


def fleet_request(
    fleet: Fleet,
    *,
    devices: Sequence[Device] = (),
    objective: Objective = Objective.MIN_DEVICES,
    time_limit_seconds: float = 10.0,
    seed: int = 0,
    architecture_of: ArchitectureOf | None = None,
    on_estimate: OnEstimate | None = None,
) -> PlanRequest:
    """Make the request to the planner for a fleet, from estimates.

    Args:
        fleet: models and devices.
        devices: used if the fleet names none (the devices of this host).
        objective: the objective of the plan.
        time_limit_seconds: for the search.
        seed: of every random choice.
        architecture_of: called for models that neither the file nor the catalog knows.
        on_estimate: called with (models estimated, models) before each; not in the time limit.

    Raises:
        SpecError: no model, no device, or a model whose architecture is not known.
    """
    if not fleet.models:
        raise SpecError(f"{fleet.path} names no model.", hint="Add a [[models]] table.")
    there = fleet.devices or tuple(devices)
    if not there:
        raise SpecError(f"{fleet.path} names no device.", hint="Add a [[devices]] table.")
    if len(fleet.models) * len(there) > MAX_PAIRS:
        raise SpecError(
            f"{fleet.path} has {len(fleet.models):,} models and {len(there):,} devices: more than "
            "can be estimated and bounded in a sensible time.",
            hint=f"Plan it in parts, of at most {MAX_PAIRS:,} models times devices each.",
        )
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return PlanRequest(
        devices=there,
        models=tuple(
            estimated_demands(fleet, there, created_at, architecture_of, on_estimate=on_estimate)
        ),
        objective=objective,
        time_limit_seconds=time_limit_seconds,
        seed=seed,
        plan_id=f"offline-{fleet.path.stem}",
        created_at=created_at,
        host_memory_bytes=fleet.host_memory_bytes,
    )


def estimated_demands(
    fleet: Fleet,
    devices: Sequence[Device],
    created_at: str,
    architecture_of: ArchitectureOf | None = None,
    *,
    few_sizes: bool | None = None,
    on_estimate: OnEstimate | None = None,
) -> Iterator[ModelDemand]:
    """Yield the planner's demand of each model, from estimates on each kind of device.

    Args:
        fleet: models, and their architectures if the file gives them.
        devices: the available devices.
        created_at: ISO 8601 UTC.
        architecture_of: called for models that neither the file nor the catalog knows.
        few_sizes: estimate fewer sizes of a device; None does so if there are many models.
        on_estimate: called with (models estimated, models) before each.
    """
    keys = tuple({d.hardware for d in devices})
    coarse = has_many(fleet) if few_sizes is None else few_sizes
    places = [
        (d, size) for d in kinds_of(devices) for size in (coarse_sizes if coarse else sizes)(d)
    ]
    made: dict[object, ModelDemand] = {}
    for number, asked_for in enumerate(fleet.models):
        if on_estimate is not None:
            on_estimate(number, len(fleet.models))
        spec, found = recognise(fleet, asked_for, architecture_of)
        forms = [(name, spec.as_variant(name), found[name]) for name in found]
        key = (_speed_alone(spec), *(architecture for *_, architecture in forms))
        if key not in made:
            profiles = [
                estimate(form, architecture, device, size, created_at, variant=variant)
                for variant, form, architecture in forms
                for device, size in places
            ]
            made[key] = candidates_for(spec, profiles, keys, most_cores=most_host_cores(devices))
        yield _asked_by(spec, made[key], coarse=coarse)


def has_many(fleet: Fleet) -> bool:
    """Return whether there are so many models that each is estimated on fewer sizes."""
    return len(fleet.models) >= MANY_MODELS


def _speed_alone(spec: ModelSpec) -> ModelSpec:
    """Return the spec without its name and demands; models whose results are equal are equally
    fast.

    Estimates and candidates take some tens of milliseconds, and thousands of models may differ
    only in name and demands.
    """
    plain = ModelSpec("any", spec.source)
    return dataclasses.replace(spec.asked_as(plain), name=plain.name)


def _asked_by(spec: ModelSpec, made: ModelDemand, *, coarse: bool) -> ModelDemand:
    """Return the demand of this model with the candidates of an equally fast one; `coarse`:
    fewer.
    """
    mine = dataclasses.replace(asked(made, spec), model=spec.name)
    mine = leaner(mine) if coarse else mine
    if made.model == spec.name:
        return mine
    old, own = f"estimate-{made.model}-", f"estimate-{spec.name}-"
    candidates = tuple(
        dataclasses.replace(c, model=spec.name, profile_id=own + c.profile_id.removeprefix(old))
        for c in mine.candidates
    )
    return dataclasses.replace(mine, candidates=candidates)


def coarse_sizes(device: Device) -> tuple[PartitionSize, ...]:
    """Return fewer partition sizes, for fleets of very many models: each at least twice the one
    before.
    """
    found: list[PartitionSize] = []
    last: dict[SharingMode, float] = {}
    for size in sorted(sizes(device), key=lambda size: _compute(device, size)):
        compute = _compute(device, size)
        if compute >= FEW_RATIO * last.get(size.mode, 0.0):
            last[size.mode] = compute
            found.append(size)
    return tuple(found)


def _compute(device: Device, size: PartitionSize) -> float:
    """Return the part of the device's compute that a size has, in a unit of its mode."""
    match size.mode:
        case SharingMode.MPS:
            return size.sm_percent
        case SharingMode.CORES:
            return size.cores
        case SharingMode.MIG:
            return mig_profile(hardware_of(device), size.mig_profile).sm_count
        case _:
            return 100


def recognise(
    fleet: Fleet, spec: ModelSpec, architecture_of: ArchitectureOf | None = None
) -> tuple[ModelSpec, Mapping[str, Architecture]]:
    """Return a model as its configs complete it, and the architecture of every form, by name.

    Raises:
        SpecError: nobody knows the architecture, or a context is too long or too short.
    """

    def architecture(form: ModelSpec) -> Architecture:
        given, known = fleet.architectures.get(form.name), entry_of(form.source)
        found = given or (known.architecture if known is not None else None)
        if found is None and architecture_of is not None:
            found = architecture_of(form)
        if found is None:
            raise SpecError(
                f"{fleet.path}: the architecture of {form.name} is not known.",
                hint="Give its numbers in an `architecture` table, or name a catalog model.",
            )
        return found

    found = {name: architecture(spec.as_variant(name)) for name in spec.form_names}
    return recognised(spec, found), found


def leaner(demand: ModelDemand) -> ModelDemand:
    """Return the demand without candidates that serve far more requests/s than are wanted.

    A model without a demanded rate keeps all candidates, because it fills the capacity left over.
    """
    wanted = demand.demand.planned_req_per_s
    if not wanted:
        return demand
    alike = by_key(
        ((c.hardware, c.size.mode, c.size.mig_profile, c.variant), n)
        for n, c in enumerate(demand.candidates)
    )
    kept: list[int] = []
    for mine in alike.values():
        mine.sort(key=lambda n: _takes(demand.candidates[n]))
        ample = [n for n in mine if demand.candidates[n].capacity_req_per_s >= SPARE * wanted]
        below = [n for n in mine if demand.candidates[n].capacity_req_per_s < SPARE * wanted]
        kept += below + ample[:KEPT]
    candidates = tuple(demand.candidates[n] for n in sorted(kept))
    return dataclasses.replace(demand, candidates=candidates)


def _takes(c: Candidate) -> tuple[float, ...]:
    return (c.size.sm_percent * c.memory_bytes, c.size.cores, c.memory_bytes)
