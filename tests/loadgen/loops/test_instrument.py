"""The instrument recognises that it is saturated."""

import asyncio
import dataclasses

import pytest

from loadgen.loops.instrument import Reading, Watch, saturation
from tests.proxy.virtual import running_loop, virtual_time


def test_each_sign_of_saturation_is_named() -> None:
    for reading, word in (
        (Reading(0.9, 0.0, 0, 0.0, 0.0, 100), "90% of one core"),
        (Reading(0.1, 0.2, 100, 0.0, 0.0, 100), "sent 200 ms late"),
        (Reading(0.1, 0.0, 0, 0.08, 0.1, 100), "stalled for 80 ms"),
    ):
        (reason,) = saturation(reading)
        assert word in reason
    assert saturation(Reading(0.3, 0.002, 500, 0.003, 0.01, 500)) == ()
    assert saturation(Reading(0.1, 0.5, 10, 0.5, 0.5, 10)) == (), "one hiccup of a short run"
    late = Reading(0.1, 0.1, 100, 0.1, 0.1, 100)
    assert len(saturation(late)) == 2
    assert saturation(late, max_late_seconds=0.2) == ()


@virtual_time
async def test_work_on_the_loop_shows_as_cpu_and_stalls_and_an_idle_one_reads_low() -> None:
    loop, used = running_loop(), [0.0]
    watch = Watch(loop.time, lambda: used[0])
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(1.0)
    watch.open()
    used[0] += 0.03
    await asyncio.sleep(0.3)
    idle = watch.reading()
    assert idle.cpu_share == pytest.approx(0.1)
    assert watch.recent_cpu_share() == pytest.approx(0.03 / 1.3)
    assert idle.probes == 15
    assert idle.worst_stall_seconds == pytest.approx(0.0)
    watch.open()
    for _ in range(6):
        used[0] += 0.06
        loop.works(0.06)
        await asyncio.sleep(0)
    watch.close()
    busy = watch.reading([0.5])
    await asyncio.sleep(0.1)
    assert watch.reading() == dataclasses.replace(busy, lag_seconds_p99=0.0, lags=0)
    task.cancel()
    assert busy.cpu_share == pytest.approx(1.0)
    assert busy.worst_stall_seconds == pytest.approx(0.1, abs=0.08)
    assert (busy.lag_seconds_p99, busy.lags) == (0.5, 1)
