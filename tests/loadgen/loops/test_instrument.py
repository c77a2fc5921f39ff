"""The instrument recognises that it is saturated."""

import asyncio
import time

from loadgen.loops.instrument import Reading, Watch, saturation


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


async def test_work_on_the_loop_shows_as_cpu_and_stalls_and_an_idle_one_reads_low() -> None:
    watch = Watch()
    task = asyncio.create_task(watch.run())
    watch.open()
    await asyncio.sleep(0.3)
    idle = watch.reading()
    assert idle.cpu_share < 0.5
    assert idle.probes > 3
    assert 0 <= watch.recent_cpu_share() < 1
    watch.open()
    for _ in range(6):
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0)
    watch.close()
    busy = watch.reading([0.5])
    await asyncio.sleep(0.1)
    assert watch.reading().cpu_share == busy.cpu_share, "what comes after the window is not of it"
    task.cancel()
    assert busy.cpu_share > idle.cpu_share
    assert busy.worst_stall_seconds > 0.02
    assert (busy.lag_seconds_p99, busy.lags) == (0.5, 1)
