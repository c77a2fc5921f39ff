"""`plan --from FILE`: plan a described fleet without a daemon, an engine or a GPU.

Nothing of it was measured, so every model is estimated from its architecture on each kind of
device of the fleet; the planner widens its margins for that and the plan marks it.
"""

import asyncio
import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from partitiond import __version__
from partitiond.core.errors import SpecError
from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.plan import Infeasible, ModelDemand, Objective, Plan
from partitiond.core.profile import Profile
from partitiond.core.spec import Architecture, ModelSpec

if TYPE_CHECKING:
    from partitiond.settings import Settings

SM_PERCENTS: Final = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""Shares that are estimated: fine where small models have their knee, coarse above."""


def plan_file(
    path: Path,
    settings: "Settings",
    *,
    objective: Objective | None = None,
    time_limit_seconds: float | None = None,
) -> Plan | Infeasible:
    """Plan the fleet of a file; without devices in it, the devices of this host.

    Raises:
        SpecError: the file is not a fleet, or a model is not known.
        ModelSourceError: a model's config cannot be fetched.
    """
    from partitiond.fleet import load_fleet
    from partitiond.planner.api import solve
    from partitiond.planner.instance import PlanRequest

    fleet = load_fleet(path)
    if not fleet.models:
        raise SpecError(f"{path} names no model.", hint="Add a [[models]] table.")
    devices = tuple(fleet.devices) or _host_devices(settings)
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return solve(
        PlanRequest(
            devices=devices,
            models=tuple(estimated_demands(fleet.models, devices, settings, created_at)),
            objective=objective or settings.planner.objective,
            time_limit_seconds=time_limit_seconds or settings.planner.time_limit_seconds,
            seed=settings.planner.seed,
            plan_id=f"offline-{path.stem}",
            created_at=created_at,
        )
    )


def _host_devices(settings: "Settings") -> tuple[Device, ...]:
    from partitiond.cli.commands_daemon import host_devices

    return tuple(host_devices(settings))


def estimated_demands(
    specs: Sequence[ModelSpec],
    devices: Sequence[Device],
    settings: "Settings",
    created_at: str,
) -> Iterable[ModelDemand]:
    """What the planner is asked for each model, from estimates on each kind of device."""
    from partitiond.planner.candidates import candidates_for

    architectures = asyncio.run(_architectures(specs, settings))
    kinds = {device.hardware: device for device in devices}
    for spec, architecture in zip(specs, architectures, strict=True):
        profiles = [
            _estimate(spec, architecture, device, size, created_at)
            for device in kinds.values()
            for size in sizes(device)
        ]
        yield candidates_for(spec, profiles, tuple(kinds))


async def _architectures(specs: Sequence[ModelSpec], settings: "Settings") -> list[Architecture]:
    from partitiond.models.resolver import Resolver

    resolver = Resolver(settings.models_dir, None, settings.models.offline, settings.models.hub)
    return [await resolver.architecture(spec) for spec in specs]


def sizes(device: Device) -> tuple[PartitionSize, ...]:
    """Partition sizes worth an estimate on this device."""
    if device.kind is DeviceKind.CPU:
        count = len(device.cores)
        powers = [2**n for n in range(count.bit_length()) if 2**n < count]
        return tuple(PartitionSize(SharingMode.CORES, n) for n in (*powers, count))
    found = []
    for mode in device.modes:
        if mode is SharingMode.MPS:
            found += [PartitionSize(mode, 1, percent) for percent in SM_PERCENTS]
        elif mode in (SharingMode.WHOLE, SharingMode.MEMORY):
            found.append(PartitionSize(mode, 1, 100))
    return tuple(found)


def _estimate(
    spec: ModelSpec,
    architecture: Architecture,
    device: Device,
    size: PartitionSize,
    created_at: str,
) -> Profile:
    from partitiond.core.estimate import estimate_profile

    return estimate_profile(
        model=spec.name,
        architecture=architecture,
        workload=spec.workload,
        hardware=device,
        size=size,
        max_model_len=spec.max_model_len,
        profile_id=f"estimate-{spec.name}-{device.hardware}-{size.key}",
        created_at=created_at,
        dtype=spec.engine.dtype,
        weights=spec.weights.value,
        partitiond_version=__version__,
    )
