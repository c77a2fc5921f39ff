"""A trial uses the engine's own gauges correctly."""

import asyncio
from typing import Any

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry
from partitiond.platform.clock import SystemClock
from partitiond.profiler.sweep import sampling
from partitiond.profiler.sweep.bench import RUNNING, Bench
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.sampling import PREEMPTIONS, Sampler, summarise_engine
from tests.profiler.samples import request_of


def test_running_is_averaged_and_preemptions_are_counted_from_the_first_scrape() -> None:
    scrapes = [{RUNNING: 7.0, PREEMPTIONS[0]: 3.0}, {RUNNING: 8.0, PREEMPTIONS[0]: 5.0}]
    seen = summarise_engine(scrapes)
    assert (seen.running_mean, seen.preemptions, seen.starved) == (7.5, 2, False)
    at_end = {RUNNING: 0.0, PREEMPTIONS[0]: 6.0}
    assert summarise_engine(scrapes, at_end).preemptions == 3
    assert summarise_engine(scrapes, at_end).running_mean == 7.5
    assert summarise_engine([]).running_mean == 0.0


def test_waiting_for_blocks_is_told_from_waiting_for_a_step() -> None:
    for usage, waiting, starved in ((1.0, 3.0, True), (1.0, 0.0, False), (0.9, 3.0, False)):
        scrape = {sampling.KV_USAGE: usage, sampling.WAITING: waiting}
        assert summarise_engine([scrape] * 3).starved is starved


class Failing:
    """A telemetry source that fails while opening, or while closing."""

    def __init__(self, when: str) -> None:
        self._when = when

    async def open(self, device: Device, pids: tuple[int, ...]) -> "Failing":
        if self._when == "opening":
            raise DeviceError("it was unplugged")
        return self

    async def close(self) -> Telemetry | None:
        raise DeviceError("it was unplugged")


@pytest.mark.parametrize("when", ["opening", "closing"])
async def test_nothing_scrapes_the_engine_after_telemetry_failed(engines: Any, when: str) -> None:
    asked = request_of()
    bench = Bench(engines, SystemClock(), asked.device, Failing(when), 5.0, 1.0, None)
    planned = plan_launch(asked, "test")
    before = asyncio.all_tasks()
    async with bench.running(planned.launch, lambda _: None) as engine:
        own = asyncio.all_tasks()
        sampler = Sampler(bench, engine)
        sampler.start()
        await asyncio.sleep(0)
        with pytest.raises(DeviceError, match="unplugged"):
            await sampler.stop()
        assert asyncio.all_tasks() - own <= before
