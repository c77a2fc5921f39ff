"""Profiling in this process, where no daemon runs: the same profiler, runner and store.

It takes the state folder's lock for the time being, so no daemon can start beside it and mistake
its engine for a stray one. The profile is kept in the state folder's store.
"""

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from partitiond.cli.exits import Exit
from partitiond.cli.output import say
from partitiond.cli.render_progress import Reporter, reporting
from partitiond.core.errors import (
    DeviceError,
    EngineUnavailableError,
    PartitiondError,
    SpecError,
)
from partitiond.core.hardware import Device, DeviceKind, headroom_bytes
from partitiond.core.profile import Profile
from partitiond.core.spec import ModelSpec
from partitiond.ports import (
    EngineHandle,
    EngineLaunch,
    ProfileOptions,
    ProfileRequest,
    Progress,
    ResolvedModel,
)

if TYPE_CHECKING:
    from partitiond.engines.environment import EngineEnvironment
    from partitiond.settings import Settings


def measure_here(
    settings: "Settings", body: dict[str, Any], options: ProfileOptions, console: Console
) -> Profile:
    """Resolve, measure with visible progress, keep the profile.

    Raises:
        PartitiondError: the model cannot be had, the engine does not start, or a daemon that
            does not answer holds the state folder.
        typer.Exit: interrupted, with Exit.INTERRUPTED.
    """
    from partitiond.store import StateLock, open_store

    spec = spec_of(body, settings)
    device = choose_device(settings, options)
    with StateLock.acquire(settings.lock_path), reporting(console) as report:
        try:
            profile = asyncio.run(_measure(settings, spec, device, options, report))
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            say("interrupted; nothing was kept")
            raise typer.Exit(Exit.INTERRUPTED) from error
        store = open_store(settings.store_path)
        try:
            store.add_profile(profile)
        finally:
            store.close()
    return profile


def spec_of(body: dict[str, Any], settings: "Settings") -> ModelSpec:
    """The specification behind a registration body, read as the daemon reads it.

    Raises:
        SpecError: no such model, or a value out of its range.
    """
    from pydantic import ValidationError

    from partitiond.api.schemas import ApiOptions, ModelBody

    try:
        parsed = ModelBody.model_validate(body)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got {item['input']!r}"
            for item in error.errors(include_url=False)
        ]
        raise SpecError("; ".join(problems) + ".", hint="Correct the named options.") from error
    return parsed.to_spec(ApiOptions(hub=settings.models.hub))


def choose_device(settings: "Settings", options: ProfileOptions) -> Device:
    """The device asked for, or the first GPU, or the CPU. Raises DeviceError."""
    from partitiond.cli.commands_daemon import host_devices

    devices: list[Device] = host_devices(settings)
    if options.device_id is not None:
        devices = [device for device in devices if device.id == options.device_id]
    devices.sort(key=lambda device: device.kind is DeviceKind.CPU)
    if not devices:
        raise DeviceError(
            f"there is no device {options.device_id or ''}".rstrip() + ".",
            hint="`partitiond devices` lists them.",
        )
    return devices[0]


def profile_request(
    resolved: ResolvedModel, device: Device, options: ProfileOptions, settings: "Settings"
) -> ProfileRequest:
    """What the profiler is asked; settings where nothing was given.

    Raises:
        SpecError: more cores than the device has.
    """
    wanted = options.cores or _default_cores(device, settings)
    if wanted > len(device.cores):
        raise SpecError(
            f"{wanted} cores are asked for; {device.id} has {len(device.cores)}.",
            hint="Give --cores a number up to that.",
        )
    free = min(device.free_bytes, device.memory_bytes - device.reserved_bytes)
    profiling = settings.profiling
    return ProfileRequest(
        model=resolved,
        device=device,
        cores=device.cores[:wanted],
        memory_bytes=options.memory_bytes or max(0, free - headroom_bytes(device.memory_bytes)),
        max_batch=options.max_batch or profiling.max_batch,
        time_limit_seconds=options.time_limit_seconds or profiling.time_limit_seconds,
        seed=options.seed,
        min_window_seconds=profiling.min_window_seconds,
        max_window_seconds=profiling.max_window_seconds,
    )


def _default_cores(device: Device, settings: "Settings") -> int:
    """The smallest partition the settings name for the CPU device, else all cores."""
    sizes = settings.profiling.cpu_partition_cores if device.kind is DeviceKind.CPU else ()
    return min((*sizes, len(device.cores)))


async def _measure(
    settings: "Settings",
    spec: ModelSpec,
    device: Device,
    options: ProfileOptions,
    report: Reporter,
) -> Profile:
    """Ends its engine on Ctrl-C and SIGTERM, too: both cancel this task."""
    from partitiond.engines.runner import ProcessEngineRunner
    from partitiond.models.resolver import Resolver
    from partitiond.profiler.runner import Profiler

    _cancel_on_sigterm()
    environment = _engine_or_why_not(settings)
    python = environment.python if not isinstance(environment, PartitiondError) else None
    resolver = Resolver(settings.models_dir, python, settings.models.offline, settings.models.hub)
    resolved = await resolver.resolve(spec, report.update)
    if isinstance(environment, PartitiondError) and spec.engine_kind == "vllm":
        raise environment
    started: list[EngineHandle] = []

    class Runner(ProcessEngineRunner):
        """Remembers its engines, so that an interrupted one leaves nothing on the disk."""

        async def start(self, launch: EngineLaunch) -> EngineHandle:
            started.append(await super().start(launch))
            return started[-1]

    runner = Runner(
        settings.run_dir,
        None if isinstance(environment, PartitiondError) else environment,
        cache_dir=settings.cache_dir / "compiled",
        allow_unknown_version=settings.engine.allow_unknown_version,
    )
    profiler = Profiler(
        runner,
        start_deadline_seconds=settings.engine.start_deadline_seconds,
        stop_grace_seconds=settings.engine.stop_grace_seconds,
    )

    def show(progress: Progress) -> None:
        text = ": ".join(part for part in (progress.phase, progress.message) if part)
        report.update(text, progress.fraction, progress.seconds_left)

    request = profile_request(resolved, device, options, settings)
    try:
        return await profiler.run(request, show)
    except asyncio.CancelledError:
        # The profiler stopped its engine; the log of one that was interrupted tells nothing.
        for handle in started:
            await runner.discard(handle)
        raise


def _engine_or_why_not(settings: "Settings") -> "EngineEnvironment | EngineUnavailableError":
    """The engine, or the error to raise once the model is at hand.

    A model that cannot be had is worth saying first: installing an engine takes minutes.
    """
    from partitiond.cli.commands_engine import find_engine

    try:
        return find_engine(settings)
    except EngineUnavailableError as error:
        return error


def _cancel_on_sigterm() -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
