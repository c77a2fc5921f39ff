"""Tokenising requests take no slot: few at once per replica, the rest in a queue of their own."""

import asyncio
import hashlib
from collections import Counter
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.admission import ServiceTime
from partitiond.core.dispatch.routing import KeyRoute
from partitiond.proxy.dispatch.replicas import TOKENISING_AT_ONCE
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, error_of, replica, table
from tests.proxy.scripted import Received, Step, answer, completion

TOKENS = {"tokens": [1], "count": 1, "max_model_len": 9}
ROUTES = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")


class Slow:
    """An engine's script: tokenising ends when told, in its order; completions at once."""

    def __init__(self) -> None:
        self.running: list[asyncio.Event] = []
        self.most = 0

    def __call__(self, request: Received) -> list[Step]:
        if request.path == "/v1/completions":
            return answer(completion())
        self.running.append(asyncio.Event())
        self.most = max(self.most, len(self.running))
        return [self.running[-1], *answer(TOKENS)]

    def end_one(self) -> None:
        self.running.pop(0).set()


async def post(proxy: Proxy, path: str = "/tokenize", key: str = "", **body: Any) -> httpx.Response:
    async with proxy.client as client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await client.post(path, json={"model": "m", "prompt": "hi", **body}, headers=headers)


async def test_a_flood_reaches_an_engine_a_few_at_a_time(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """100 at once of 20 KB: some wait, the others are told when to come again."""
    slow = Slow()
    engine = await make_engine(slow)
    routes = table(replica(engine, max_sequences=1), max_queue=36, max_wait_seconds=600)
    proxy = await make_proxy(routes)
    proxy.state.models["m"].desks.service = ServiceTime(10.0)
    text = "x" * 20_000
    requests = [
        asyncio.create_task(post(proxy, ROUTES[n % len(ROUTES)], prompt=text)) for n in range(100)
    ]
    await proxy.until(
        lambda: sum(r.done() for r in requests) == 100 - 36 - TOKENISING_AT_ONCE, seconds=240
    )
    assert proxy.state.queues() == {"m": 36}
    assert (await post(proxy, "/v1/completions")).status_code == 200, "others have their slot"
    await engine.until(lambda: len(slow.running) == TOKENISING_AT_ONCE)
    while not all(request.done() for request in requests):
        slow.end_one()
        await proxy.until(
            lambda: (
                len(slow.running) == min(TOKENISING_AT_ONCE, sum(not r.done() for r in requests))
            )
        )
    responses = await asyncio.gather(*requests)
    served, refused = 36 + TOKENISING_AT_ONCE, 100 - 36 - TOKENISING_AT_ONCE
    assert Counter(map(error_of, responses)) == {(200, ""): served, (429, "queue_full"): refused}
    # 37 that take 10 s each, at 4 places.
    assert {r.headers["retry-after"] for r in responses if r.status_code == 429} == {"93"}
    assert slow.most == TOKENISING_AT_ONCE
    assert len(engine.received) == served + 1
    assert proxy.idle()


async def test_each_replica_has_its_own_bound_and_needs_no_slot(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    slows = [Slow(), Slow()]
    engines = [await make_engine(slow, f"e{n}") for n, slow in enumerate(slows)]
    proxy = await make_proxy(
        table(*(replica(engine, f"m-{n}", max_sequences=1) for n, engine in enumerate(engines)))
    )
    requests = [asyncio.create_task(post(proxy)) for _ in range(3 * TOKENISING_AT_ONCE)]
    await proxy.until(lambda: all(len(slow.running) == TOKENISING_AT_ONCE for slow in slows))
    await proxy.until(lambda: proxy.state.queues() == {"m": TOKENISING_AT_ONCE})
    assert error_of(await post(proxy, "/v1/completions")) == (200, "")
    while not all(request.done() for request in requests):
        for slow in slows:
            while slow.running:
                slow.end_one()
        await asyncio.wait(requests, timeout=0.05, return_when=asyncio.ALL_COMPLETED)
    assert {error_of(request.result()) for request in requests} == {(200, "")}
    assert [slow.most for slow in slows] == [TOKENISING_AT_ONCE] * 2
    assert proxy.idle()


async def test_a_dead_replica_tokenises_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: answer(TOKENS))
    none = engine.path.with_name("none")
    proxy = await make_proxy(table(replica(engine, "m-1"), replica(none, "m-2")))
    assert proxy.state.models["m"].replicas["m-2"].connect_failed()
    for _ in range(8):
        assert error_of(await post(proxy)) == (200, "")
    assert not proxy.state.metrics.upstream_failures


async def test_a_draining_replica_tokenises_nothing_new(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    old, new = [await make_engine(lambda _: answer(TOKENS), name) for name in ("old", "new")]
    drains = replica(old, "m-1", draining=True)
    proxy = await make_proxy(table(drains))
    assert (await post(proxy)).status_code == 503
    proxy.state.apply(table(drains, replica(new, "m-2"), version=2))
    for _ in range(8):
        assert error_of(await post(proxy)) == (200, "")
    assert (len(old.received), len(new.received)) == (0, 8)


async def test_a_full_replica_tokenises_at_once(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return answer(TOKENS) if request.path == "/tokenize" else [go, *answer(completion())]

    engine = await make_engine(script)
    proxy = await make_proxy(table(replica(engine, max_sequences=1)))
    running = [asyncio.create_task(post(proxy, "/v1/completions")) for _ in range(3)]
    await proxy.until(lambda: proxy.state.queues() == {"m": 2})
    assert error_of(await post(proxy)) == (200, "")
    go.set()
    assert {error_of(one) for one in await asyncio.gather(*running)} == {(200, "")}


async def test_who_waits_too_long_or_for_nobody_is_error_of(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    slow = Slow()
    engine = await make_engine(slow)
    proxy = await make_proxy(table(replica(engine), max_wait_seconds=0.2))
    running = [asyncio.create_task(post(proxy)) for _ in range(TOKENISING_AT_ONCE)]
    await engine.until(lambda: len(slow.running) == TOKENISING_AT_ONCE)
    late = await post(proxy)
    assert error_of(late) == (429, "queue_timeout")
    assert late.headers["retry-after"] == "1"
    proxy.state.apply(table(replica(engine), version=2, max_wait_seconds=600))
    leaves = asyncio.create_task(post(proxy))
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    leaves.cancel()
    await proxy.until(lambda: proxy.state.queues() == {"m": 0})
    waits = asyncio.create_task(post(proxy))
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    engine.path.unlink()
    assert proxy.state.models["m"].replicas["m-1"].connect_failed()
    assert error_of(await waits) == (503, "upstream_connect")
    while slow.running:
        slow.end_one()
    assert {error_of(one) for one in await asyncio.gather(*running)} == {(200, "")}
    assert len(engine.received) == TOKENISING_AT_ONCE
    assert proxy.idle()


async def test_a_key_that_floods_does_not_hold_up_another(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    slow = Slow()
    engine = await make_engine(slow)
    keys = tuple(KeyRoute(name, hashlib.sha256(name.encode()).hexdigest()) for name in "ab")
    routes = table(replica(engine), keys=keys, keys_required=True, max_queue=40)
    proxy = await make_proxy(routes)
    flood = [asyncio.create_task(post(proxy, key="a", prompt="flood")) for _ in range(60)]
    await proxy.until(lambda: sum(r.done() for r in flood) == 20 - TOKENISING_AT_ONCE)
    modest = asyncio.create_task(post(proxy, key="b", prompt="modest"))
    await proxy.until(lambda: sum(r.done() for r in flood) == 21 - TOKENISING_AT_ONCE)
    slow.end_one()
    await engine.until(lambda: len(engine.received) == TOKENISING_AT_ONCE + 1)
    assert engine.received[-1].body["prompt"] == "modest"
    while not (modest.done() and all(one.done() for one in flood)):
        while slow.running:
            slow.end_one()
        await asyncio.wait([modest, *flood], timeout=0.05)
    assert error_of(modest.result()) == (200, "")
    assert slow.most == TOKENISING_AT_ONCE
    assert proxy.idle()


@pytest.mark.parametrize(("workers", "each"), [(1, 4), (2, 2), (3, 1), (8, 1)])
async def test_workers_share_it(
    make_proxy: MakeProxy, make_engine: MakeEngine, workers: int, each: int
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine), max_queue=100), workers=workers)
    model = proxy.state.models["m"]
    assert model.replicas["m-1"].desk.max_sequences == each
    assert model.desks.queue.max_entries == 100 // workers
