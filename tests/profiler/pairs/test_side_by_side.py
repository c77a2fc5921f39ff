"""A measurement side by side that ends early leaves no telemetry window open."""

import asyncio
from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.profile.points import Telemetry
from partitiond.core.replica.engine import EngineExit, EngineHandle
from partitiond.core.units import GIB
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.arrangement import Arrangement, DeviceShare, Replica
from partitiond.profiler.pairs.side_by_side import WindowPlan, measure
from partitiond.profiler.sweep.bench import Bench
from tests.profiler.pairs.test_replication import device, model


class Slow:
    """Takes a moment to close."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.opened = asyncio.Event()

    async def open(self, device: Device, pids: tuple[int, ...]) -> "Slow":
        self.opened.set()
        return self

    async def close(self) -> Telemetry | None:
        await asyncio.sleep(0.05)
        self.events.append("closed")
        return None


class Noting(ProcessEngineRunner):
    """Notes when engines are stopped."""

    events: list[str]

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        self.events.append("stop")
        return await super().stop(handle, grace_seconds)


async def test_the_device_is_not_listened_to_after_the_engines_are_gone(tmp_path: Path) -> None:
    events: list[str] = []
    slow, noting = Slow(events), Noting(tmp_path / "run", None)
    noting.events = events
    one = Arrangement(
        "a", SharingMode.CORES, (Replica(model(tmp_path), DeviceShare((0,), 4 * GIB, 1)),)
    )
    lab = Bench(noting, SystemClock(), device(), slow, 60.0, 5.0, None)
    task = asyncio.create_task(measure(lab, [one], WindowPlan(1, 30.0), lambda _: None))
    await slow.opened.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["closed", "stop"]
