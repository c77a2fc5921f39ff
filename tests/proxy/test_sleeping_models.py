"""Requests for sleeping models are held until they wake, refused in time, and never lost."""

import asyncio
from typing import Any

import httpx

from partitiond.core.dispatch.routing import ModelAvailability, RoutingTable
from tests.proxy.conftest import MakeEngine, MakeProxy, replica, table
from tests.proxy.scripted import Received, Step, answer, completion


def asleep(version: int = 1, **route: Any) -> RoutingTable:
    return table(
        version=version,
        availability=ModelAvailability.SLEEPING,
        **{"holds": True, "retry_after_seconds": 5.0, **route},
    )


def well(_: Received) -> list[Step]:
    return answer(completion())


async def test_a_request_waits_until_its_model_is_awake(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well)
    proxy = await make_proxy(asleep())
    requests = [asyncio.create_task(proxy.complete(prompt=str(n))) for n in range(20)]
    await proxy.until(lambda: proxy.state.queues() == {"m": 20})
    assert proxy.state.idle_seconds() == {"m": 0.0}
    proxy.state.apply(table(replica(engine), version=2))
    answers = await asyncio.gather(*requests)
    assert {a.status_code for a in answers} == {200}
    assert proxy.idle()


async def test_a_request_that_waited_long_enough_gets_503_with_a_time(
    make_proxy: MakeProxy,
) -> None:
    proxy = await make_proxy(asleep(max_wait_seconds=0.05))
    answered = await proxy.complete()
    assert_asleep(answered)
    assert proxy.idle()


async def test_without_waking_on_request_it_is_refused_at_once(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(asleep(holds=False))
    assert_asleep(await proxy.complete())


def assert_asleep(answered: httpx.Response) -> None:
    assert answered.status_code == 503
    assert answered.json()["error"]["code"] == "model_sleeping"
    assert answered.headers["retry-after"] == "5"


async def test_a_wake_that_becomes_a_start_does_not_drop_who_waits(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well)
    proxy = await make_proxy(asleep())
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    proxy.state.apply(table(version=2, availability=ModelAvailability.STARTING))
    refused = await proxy.complete()  # who comes now is told when to come again
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_starting")
    proxy.state.apply(table(replica(engine), version=3))
    assert (await waiting).status_code == 200


async def test_a_model_that_becomes_unavailable_refuses_who_waits(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(asleep())
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    proxy.state.apply(table(version=2, availability=ModelAvailability.UNAVAILABLE))
    answered = await waiting
    assert (answered.status_code, answered.json()["error"]["code"]) == (503, "model_unavailable")


async def test_a_removed_model_refuses_who_waits(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(asleep())
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    proxy.state.apply(table(version=2, models=()))
    assert (await waiting).status_code == 503


async def test_the_queue_of_a_sleeping_model_is_bounded(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(asleep(max_queue=2, max_wait_seconds=0.3))
    waiting = [asyncio.create_task(proxy.complete()) for _ in range(2)]
    await proxy.until(lambda: proxy.state.queues() == {"m": 2})
    beyond = await proxy.complete()
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (429, "queue_full")
    assert {(await task).status_code for task in waiting} == {503}


async def test_a_client_that_leaves_wakes_nobody(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(asleep())
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    waiting.cancel()
    await proxy.until(lambda: proxy.state.queues() == {"m": 0})


async def test_requests_of_a_model_that_falls_asleep_finish_and_new_ones_wait(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = asyncio.Event()

    def slow(_: Received) -> list[Step]:
        return [gate, *answer(completion())]

    engine = await make_engine(slow)
    proxy = await make_proxy(table(replica(engine)))
    first = asyncio.create_task(proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    drowsy = table(
        replica(engine, draining=True),
        version=2,
        availability=ModelAvailability.SLEEPING,
        holds=True,
    )
    proxy.state.apply(drowsy)
    second = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    gate.set()
    assert (await first).status_code == 200
    assert not second.done()
    proxy.state.apply(table(replica(engine), version=3))
    assert (await second).status_code == 200


async def test_idle_time_counts_from_the_last_request(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well)
    proxy = await make_proxy(table(replica(engine)))
    proxy.state.models["m"].busy_at -= 100.0
    assert proxy.state.idle_seconds()["m"] >= 100.0
    await proxy.complete()
    assert proxy.state.idle_seconds()["m"] < 100.0
