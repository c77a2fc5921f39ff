"""Requests for a model whose only replica is being replaced are held, or refused with a time."""

import asyncio
import time
from typing import Any

import httpx

from partitiond.core.dispatch.routing import ModelAvailability, RoutingTable
from tests.proxy.conftest import MakeEngine, MakeProxy, replica, table
from tests.proxy.scripted import Received, Step, answer, completion


def well(_: Received) -> list[Step]:
    return answer(completion())


def changing(version: int = 1, *replicas: Any, within: float = 5.0, **route: Any) -> RoutingTable:
    """A replica should serve again `within` seconds."""
    return table(
        *replicas,
        version=version,
        availability=ModelAvailability.STARTING,
        **{"holds": True, "ready_at": time.monotonic() + within, **route},
    )


def assert_told_when(answered: httpx.Response, least: int, most: int) -> None:
    assert answered.status_code == 503
    assert answered.json()["error"]["code"] == "model_starting"
    assert least <= int(answered.headers["retry-after"]) <= most


async def test_a_request_waits_for_the_replica_that_is_coming(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well)
    proxy = await make_proxy(changing())
    requests = [asyncio.create_task(proxy.complete(prompt=str(n))) for n in range(5)]
    await proxy.until(lambda: proxy.state.queues() == {"m": 5})
    proxy.state.apply(table(replica(engine), version=2))
    assert {a.status_code for a in await asyncio.gather(*requests)} == {200}
    model = proxy.state.models["m"]
    assert (model.held, model.turned_away) == (5, 0)
    assert proxy.idle()


async def test_one_that_cannot_wait_so_long_is_told_at_once_when_to_come_again(
    make_proxy: MakeProxy,
) -> None:
    proxy = await make_proxy(changing(within=100.0, max_wait_seconds=30.0))
    assert_told_when(await proxy.complete(), 90, 100)
    model = proxy.state.models["m"]
    assert (model.held, model.turned_away) == (0, 1)
    assert proxy.idle()


async def test_a_deadline_of_the_client_counts(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well)
    proxy = await make_proxy(changing(within=20.0))
    patient = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    async with proxy.client as client:
        hurried = await client.post(
            "/v1/completions",
            json={"model": "m", "prompt": "hi"},
            headers={"x-partitiond-max-wait-seconds": "2"},
        )
    assert_told_when(hurried, 10, 20)
    proxy.state.apply(table(replica(engine), version=2))
    assert (await patient).status_code == 200


async def test_who_waits_for_a_place_is_held_when_the_last_replica_goes(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = asyncio.Event()
    order: list[str] = []

    def slow(_: Received) -> list[Step]:
        return [gate, *answer(completion())]

    def noted(received: Received) -> list[Step]:
        order.append(received.body["prompt"])
        return answer(completion())

    old, new = await make_engine(slow), await make_engine(noted, "new")
    full = replica(old, max_sequences=1)
    proxy = await make_proxy(table(full, max_wait_seconds=10.0))
    running = asyncio.create_task(proxy.complete())
    await old.until(lambda: len(old.received) == 1)
    waiting = []
    for n in range(3):
        waiting.append(asyncio.create_task(proxy.complete(prompt=str(n))))
        await proxy.until(lambda n=n: proxy.state.queues() == {"m": n + 1})  # type: ignore[misc]
    leaving = replica(old, max_sequences=1, draining=True)
    proxy.state.apply(changing(2, leaving, max_wait_seconds=30.0))
    gate.set()
    assert (await running).status_code == 200, "what runs on the old one finishes there"
    assert proxy.state.queues() == {"m": 3}
    proxy.state.apply(table(replica(new, "m-2", max_sequences=1), version=3))
    assert {(await task).status_code for task in waiting} == {200}
    assert order == ["0", "1", "2"]
    assert proxy.state.models["m"].held == 3


async def test_who_waits_for_a_place_and_cannot_wait_for_the_new_replica_is_told(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = asyncio.Event()

    def slow(_: Received) -> list[Step]:
        return [gate, *answer(completion())]

    old = await make_engine(slow)
    proxy = await make_proxy(table(replica(old, max_sequences=1)))
    running = asyncio.create_task(proxy.complete())
    await old.until(lambda: len(old.received) == 1)
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    leaving = replica(old, max_sequences=1, draining=True)
    proxy.state.apply(changing(2, leaving, within=200.0))
    assert_told_when(await waiting, 190, 200)
    assert proxy.state.models["m"].turned_away == 1
    gate.set()
    assert (await running).status_code == 200


async def test_the_held_are_bounded_by_the_queue(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(changing(max_queue=1))
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    assert (await proxy.complete()).status_code == 429
    waiting.cancel()
    await proxy.until(lambda: proxy.state.queues() == {"m": 0})


async def test_a_daemon_that_ends_says_so(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(availability=ModelAvailability.ENDING))
    answered = await proxy.complete()
    assert answered.status_code == 503
    assert answered.json()["error"]["code"] == "shutting_down"
