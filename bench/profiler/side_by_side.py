"""Holds the common parts of the sharing benchmarks: options, models on disk, a bench of engines."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from partitiond.cli.devices.commands import host_devices
from partitiond.cli.options import parse_overrides
from partitiond.cli.profile.local import spec_of
from partitiond.cli.setup.engine import find_engine
from partitiond.core.hardware.kinds import Device, DeviceKind, headroom_bytes
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.profile.jobs import Progress
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.resolver import Resolver
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.side_by_side import WindowPlan
from partitiond.profiler.sweep.bench import Bench
from partitiond.settings.schema import Settings, load_settings


def options_parser(description: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The options that all sharing benchmarks have."""
    parser = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="windows of each side")
    parser.add_argument("--seconds", type=float, default=seconds, help="shortest window")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="state folder")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    return parser


def settings_of(given: argparse.Namespace) -> Settings:
    """Settings of the environment, with the given overrides and folder."""
    folder = given.folder.absolute()
    overrides = parse_overrides(tuple(given.overrides), folder)
    return load_settings(None, os.environ, overrides).settings


def window_plan(given: argparse.Namespace) -> WindowPlan:
    """The windows by the given options."""
    return WindowPlan(rounds=given.rounds, seconds=given.seconds)


def cpu_of(settings: Settings) -> Device:
    """The CPU device of this host. Raises StopIteration if the CPU is switched off."""
    return next(d for d in host_devices(settings) if d.kind is DeviceKind.CPU)


def memory_of(device: Device) -> int:
    """Memory for all engines together, in bytes."""
    free = min(device.free_bytes, device.memory_bytes - device.reserved_bytes)
    return free - headroom_bytes(device.memory_bytes)


async def models_of(
    settings: Settings, given: argparse.Namespace, models: Sequence[tuple[str, str]]
) -> list[ResolvedModel]:
    """Models on disk, given as (name or folder, "real" or "dummy")."""
    resolver = Resolver(
        settings.models_dir,
        find_engine(settings).python,
        settings.models.offline,
        settings.models.hub,
    )
    lengths = {"prompt_tokens": given.prompt_tokens, "output_tokens": given.output_tokens}
    bodies = [
        {"model": model, "weights": weights, "workload": lengths, "auto": False}
        for model, weights in models
    ]
    return [await resolver.resolve(spec_of(body, settings)) for body in bodies]


def bench_of(settings: Settings, device: Device) -> Bench:
    """A bench that runs real engines below the state folder."""
    runner = ProcessEngineRunner(
        settings.run_dir,
        find_engine(settings),
        cache_dir=settings.cache_dir / "compiled",
        allow_unknown_version=settings.engine.allow_unknown_version,
    )
    return Bench(
        engines=runner,
        clock=SystemClock(),
        device=device,
        telemetry=HostTelemetry(),
        start_deadline_seconds=settings.engine.start_deadline_seconds,
        stop_grace_seconds=settings.engine.stop_grace_seconds,
        device_used_bytes=None,
    )


def tell(progress: Progress) -> None:
    """Print a line of progress on standard error."""
    share = f" [{progress.fraction:.0%}]" if progress.fraction is not None else ""
    print(f"{progress.phase}: {progress.message}{share}", file=sys.stderr, flush=True)


async def begin() -> None:
    """Make SIGTERM stop the engines as well: they outlive a process that is killed.

    Then wait a moment, so that processes that have just started can settle.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.sleep(1.0)
