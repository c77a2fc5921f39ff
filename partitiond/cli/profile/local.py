"""Profiles in this process, without a daemon, by the same profiler, runner and store.

The process holds the state folder's lock meanwhile, so that no daemon can start beside it and
mistake its engine for a stray one. The profile is kept in the state folder's store.
"""

import asyncio
import dataclasses
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from partitiond.api.schemas import ApiOptions, ModelBody
from partitiond.cli.devices.commands import host_devices
from partitiond.cli.exits import Exit
from partitiond.cli.output import say
from partitiond.cli.profile.local_engines import LocalEngines, local_engines
from partitiond.cli.progress import Reporter, reporting
from partitiond.cli.setup.engine import find_engine
from partitiond.controller.profiles.params import ProfilingOptions, measured_spec, profile_request
from partitiond.controller.profiles.partition import check_partition, device_for, wish_of
from partitiond.controller.profiles.profiling import with_source
from partitiond.core.errors import DeviceError, EngineUnavailableError, NotFoundError, SpecError
from partitiond.core.hardware.kinds import Device, DeviceKind, headroom_bytes
from partitiond.core.hardware.partition import CpuCores, Partition
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import ProfileOptions, Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.leases import Lease, LeaseDenied, lease_for
from partitiond.core.units import Bytes, format_bytes
from partitiond.devices.cpu_speed import CpuSpeed
from partitiond.devices.nvml import used_bytes
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.models.resolver import Resolver
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from partitiond.run_folder import owned_run_folder
from partitiond.store import StateLock, open_store

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


def measure_here(
    settings: "Settings", body: dict[str, Any], options: ProfileOptions, console: Console
) -> Profile:
    """Resolve the model, measure it with visible progress, and keep the profile.

    Raises:
        PartitiondError: the model cannot be had, the engine does not start, or a daemon that
            does not answer holds the state folder.
        typer.Exit: interrupted, with Exit.INTERRUPTED.
    """
    spec = spec_of(body, settings)
    device = choose_device(settings, options)
    if device.kind is DeviceKind.CPU:
        partition_cores(device, options.cores, settings)  # checked before waiting for the lock
    work = _Work(settings, spec, device, options)
    with (
        StateLock.acquire(settings.lock_path),
        owned_run_folder(settings),
        reporting(console) as report,
    ):
        # Opened first: a profile that could not be kept is not worth measuring.
        store = open_store(settings.store_path)
        try:
            profile = asyncio.run(work.measure(report))
            store.add_profile(profile)
            work.kept()
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            say(work.interrupted())
            raise typer.Exit(Exit.INTERRUPTED) from error
        finally:
            store.close()
    return profile


def spec_of(body: dict[str, Any], settings: "Settings") -> ModelSpec:
    """The specification behind a registration body, read as the daemon reads it.

    Raises:
        SpecError: no such model, or a value out of its range.
    """
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
    """The requested device; else the first GPU that has such partitions, or the CPU.

    Raises:
        DeviceError: there is no such device.
        InputError: the device never has such partitions.
    """
    try:
        device = device_for(options, host_devices(settings))
    except NotFoundError as error:
        raise DeviceError(
            f"there is no device {options.device_id or ''}".rstrip() + ".",
            hint="`partitiond devices` lists them.",
        ) from error
    check_partition(dataclasses.replace(options, memory_bytes=None), device)
    return device


def partition_cores(device: Device, cores: int | None, settings: "Settings") -> tuple[int, ...]:
    """The cores to measure on. Raises SpecError: more than the device has."""
    wanted = cores or _default_cores(device, settings)
    if wanted > len(device.cores):
        raise SpecError(
            f"{wanted} cores are asked for; {device.id} has {len(device.cores)}.",
            hint="Give --cores a number up to that.",
        )
    return device.cores[:wanted]


def free_bytes(device: Device) -> int:
    """Memory the engine may take: what is free now, less the headroom."""
    free = min(device.free_bytes, device.memory_bytes - device.reserved_bytes)
    return max(0, free - headroom_bytes(device.memory_bytes))


def memory_budget(device: Device, asked: int | None) -> int:
    """Memory to measure in. Raises SpecError: more is asked for than the device has."""
    if asked is not None and asked > device.memory_bytes:
        raise SpecError(
            f"{format_bytes(asked)} are asked for; {device.id} has "
            f"{format_bytes(device.memory_bytes)}.",
            hint="Give --memory less than that, or leave it out for what is free.",
        )
    return asked or free_bytes(device)


def _default_cores(device: Device, settings: "Settings") -> int:
    """The smallest partition the settings name for the CPU device, else all cores."""
    sizes = settings.profiling.cpu_partition_cores if device.kind is DeviceKind.CPU else ()
    return min((*sizes, len(device.cores)))


def lease_here(
    settings: "Settings",
    device: Device,
    options: ProfileOptions,
    held: Sequence[tuple[str, Partition]],
    isolation_group: str = "",
) -> Lease:
    """The partition to measure a model of a group in, beside engines that a daemon left running.

    Raises:
        SpecError: more cores or memory than the device has.
        DeviceError: something else holds what is asked for; this function does not wait.
    """
    if device.kind is DeviceKind.CPU:
        cores = partition_cores(device, options.cores, settings)
        budget = memory_budget(device, options.memory_bytes)
        return Lease(CpuCores(device.id, Bytes(budget), cores), cores)
    memory_budget(device, options.memory_bytes)  # refuses a request that waiting would not help
    wish = dataclasses.replace(wish_of(options), isolation_group=isolation_group)
    found = lease_for(device, wish, room_bytes=free_bytes(device), held=held)
    if isinstance(found, LeaseDenied):
        raise DeviceError(
            f"{options_words(options)} cannot be measured now: it {found.reason}.",
            hint="Stop what holds it (`partitiond serve`, `partitiond down`), or ask for less.",
            facts={"device": device.id},
        )
    return found


def options_words(options: ProfileOptions) -> str:
    """The requested share of a GPU, in words."""
    if options.mig_profile:
        return f"a MIG slice {options.mig_profile}"
    return "the GPU" if options.sm_percent is None else f"{options.sm_percent} % under MPS"


class _Work:
    """One profile measured in this process.

    Ctrl-C and SIGTERM end its engine, too: both cancel the task.
    """

    def __init__(
        self, settings: "Settings", spec: ModelSpec, device: Device, options: ProfileOptions
    ) -> None:
        self._settings = settings
        self._spec = measured_spec(spec, options)
        self._device = device
        self._options = options
        self._request: ProfileRequest | None = None

    def interrupted(self) -> str:
        """Say what an interruption left, and how to go on."""
        checkpoint = self._request.checkpoint if self._request else None
        if checkpoint is None or not checkpoint.is_file():
            return "interrupted; nothing was kept"
        return "interrupted; finished trials are kept: the same command goes on from there"

    def kept(self) -> None:
        """Remove the checkpoint, which is not needed once the profile is in the store."""
        if self._request is not None:
            self._request.forget()

    async def measure(self, report: Reporter) -> Profile:
        """Fetch the model, and measure it with visible progress."""
        _cancel_on_sigterm()
        environment = _engine_or_why_not(self._settings)
        resolved = await self._resolved(environment, report)
        found = None if isinstance(environment, EngineUnavailableError) else environment
        engines = local_engines(self._settings, found)
        try:
            return await self._measured(engines, resolved, report)
        finally:
            engines.host.devices.close()

    async def _measured(
        self, engines: LocalEngines, resolved: ResolvedModel, report: Reporter
    ) -> Profile:
        def show(progress: Progress) -> None:
            text = ": ".join(part for part in (progress.phase, progress.message) if part)
            report.update(text, progress.fraction, progress.seconds_left)

        group = resolved.spec.isolation_group
        lease = lease_here(self._settings, self._device, self._options, await engines.held(), group)
        request = self._request = self._asked(resolved, lease)
        try:
            profile = await self._profiler(engines).run(request, show)
        except asyncio.CancelledError:
            # The profiler stopped its engine; the log of an interrupted engine tells nothing.
            await engines.discard()
            raise
        return with_source(profile, resolved.spec)

    async def _resolved(
        self, environment: EngineEnvironment | EngineUnavailableError, report: Reporter
    ) -> ResolvedModel:
        python = None if isinstance(environment, EngineUnavailableError) else environment.python
        models = self._settings.models
        resolver = Resolver(self._settings.models_dir, python, models.offline, models.hub)
        resolved = await resolver.resolve(self._spec, report.update)
        if isinstance(environment, EngineUnavailableError) and self._spec.engine_kind == "vllm":
            raise environment
        return resolved

    def _asked(self, resolved: ResolvedModel, lease: Lease) -> ProfileRequest:
        profiling = self._settings.profiling
        return profile_request(
            resolved,
            self._device,
            self._options,
            ProfilingOptions(
                max_batch=profiling.max_batch,
                time_limit_seconds=profiling.time_limit_seconds,
                min_window_seconds=profiling.min_window_seconds,
                max_window_seconds=profiling.max_window_seconds,
                checkpoint_dir=self._settings.checkpoint_dir,
            ),
            cores=lease.cores,
            memory_bytes=lease.memory_bytes,
            partition=lease.partition,
        )

    def _profiler(self, engines: LocalEngines) -> Profiler:
        looks = engines.host.devices.looks
        return Profiler(
            engines.runner,
            start_deadline_seconds=self._settings.engine.start_deadline_seconds,
            stop_grace_seconds=self._settings.engine.stop_grace_seconds,
            device_used_bytes=lambda uuid: looks.ask(uuid, lambda: used_bytes(uuid)),
            telemetry=HostTelemetry(dcgm_url=self._settings.gpu.dcgm_url, looks=looks),
            cpu_figures=CpuSpeed(self._settings.state_dir),
        )


def _engine_or_why_not(settings: "Settings") -> EngineEnvironment | EngineUnavailableError:
    """The engine, or the error to raise once the model is available.

    A missing model is reported first, because installing an engine takes minutes.
    """
    try:
        return find_engine(settings)
    except EngineUnavailableError as error:
        return error


def _cancel_on_sigterm() -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
