"""`plan --from FILE`: what the command adds to `partitiond.offline`, settings and this host."""

import asyncio
from pathlib import Path

from partitiond.core.architecture import Architecture
from partitiond.core.hardware import Device
from partitiond.core.plan import Infeasible, Objective, Plan
from partitiond.core.spec import ModelSpec
from partitiond.settings import Settings


def plan_file(
    path: Path,
    settings: Settings,
    *,
    objective: Objective | None = None,
    time_limit_seconds: float | None = None,
) -> Plan | Infeasible:
    """Plan the fleet of a file; without devices in it, the devices of this host.

    The file's own `[settings.planner]` holds over the settings, a flag over both.

    Raises:
        SpecError: the file is not a fleet, or a model is not known.
        SettingsError: a setting in the file is wrong.
        ModelSourceError: a model's config cannot be fetched.
    """
    from partitiond.fleet import load_fleet
    from partitiond.offline import plan_fleet

    fleet = load_fleet(path)
    planner = laid_over(settings, fleet.settings).planner
    return plan_fleet(
        fleet,
        devices=() if fleet.devices else _host_devices(settings),
        objective=objective or planner.objective,
        time_limit_seconds=time_limit_seconds or planner.time_limit_seconds,
        seed=planner.seed,
        architecture_of=lambda spec: _architecture(spec, settings),
    )


def laid_over(settings: Settings, tables: object) -> Settings:
    """The settings with a fleet file's tables over them. Raises SettingsError."""
    from partitiond.settings import load_settings, settings_values
    from partitiond.settings_sources import flatten

    if not isinstance(tables, dict) or not tables:
        return settings
    return load_settings(None, {}, {**settings_values(settings), **flatten(tables)}).settings


def _host_devices(settings: Settings) -> tuple[Device, ...]:
    from partitiond.cli.commands_daemon import host_devices

    return tuple(host_devices(settings))


def _architecture(spec: ModelSpec, settings: Settings) -> Architecture:
    """Of a model that neither the file nor the catalog knows: from its folder, or the hub."""
    from partitiond.models.resolver import Resolver

    resolver = Resolver(settings.models_dir, None, settings.models.offline, settings.models.hub)
    return asyncio.run(resolver.architecture(spec))
