"""The CPU time of an event loop's callbacks is counted."""

import asyncio
import time

from bench.control.loop_cpu import counted_callbacks

SECONDS = 0.05


async def busy() -> None:
    began = time.thread_time()
    while time.thread_time() - began < SECONDS:
        pass


async def waits() -> None:
    await asyncio.to_thread(lambda: asyncio.run(busy()))


def test_a_callback_is_counted_by_its_own_cpu_time_and_its_step() -> None:
    plain = asyncio.Handle._run
    with counted_callbacks() as counted:

        async def both() -> None:
            counted.step = "busy"
            await asyncio.create_task(busy())
            counted.step = "waits"
            await asyncio.create_task(waits())

        asyncio.run(both())
    assert asyncio.Handle._run is plain
    of = {(one.step, one.what): one.seconds for one in counted.largest()}
    assert of["busy", "busy"] >= SECONDS
    assert of["waits", "waits"] < SECONDS
    largest = counted.largest()
    assert [one.seconds for one in largest] == sorted(of.values(), reverse=True)
