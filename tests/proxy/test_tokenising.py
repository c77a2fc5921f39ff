"""Tokenising requests take no slot: few at once per replica, and few bytes; the rest in a queue of
their own."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.admission import service_time
from partitiond.core.dispatch.routing import NO_REQUEST_LIMITS, RequestLimits
from partitiond.proxy.dispatch.replicas import TOKENISING_AT_ONCE, TOKENISING_BYTES
from tests.proxy.conftest import Make, Proxy, error_of, key, replica, table
from tests.proxy.scripted import Gate, Received, Step, answer, completion, plays
from tests.proxy.virtual import settled

TOKENS = {"tokens": [1], "count": 1, "max_model_len": 9}
ROUTES = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
SERVED = (200, "")


class Slow(Gate):
    """An engine's script: tokenising ends when told, in its order; completions at once."""

    def __call__(self, request: Received) -> list[Step]:
        if request.path == "/v1/completions":
            return answer(completion())
        return [*super().__call__(request)[:1], *answer(TOKENS)]

    def running(self) -> int:
        return sum(not event.is_set() for event in self.events)


def ask(proxy: Proxy, path: str = "/tokenize", **more: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(proxy.complete(path, **more))


async def test_a_flood_reaches_each_engine_a_few_at_a_time(make: Make) -> None:
    """Some wait, the others are told when to come again, and others have their slot."""
    slows = [Slow(), Slow()]
    engines = [await make.engine(slow, f"e{n}") for n, slow in enumerate(slows)]
    routes = [replica(engine, f"m-{n}", max_sequences=1) for n, engine in enumerate(engines)]
    proxy = await make.proxy(table(*routes, max_queue=8, max_wait_seconds=600))
    proxy.state.models["m"].tokenising.service = service_time(10.0)
    requests = [ask(proxy, ROUTES[n % len(ROUTES)], prompt="x" * 20_000) for n in range(30)]
    await proxy.until(lambda: sum(request.done() for request in requests) == 30 - 16)
    assert proxy.state.queues() == {"m": 8}
    assert [slow.running() for slow in slows] == [TOKENISING_AT_ONCE] * 2
    assert error_of(await proxy.complete()) == SERVED
    for left in (8, 0):
        for slow in slows:
            slow.open()
        await proxy.until(lambda left=left: sum(one.running() for one in slows) == left)  # type: ignore[misc]
    answered = [await request for request in requests]
    assert Counter(map(error_of, answered)) == {SERVED: 16, (429, "queue_full"): 14}
    later = {one.headers["retry-after"] for one in answered if one.status_code == 429}
    assert later == {str(-(-9 * 10 // 8))}, "nine that take 10 s each"
    assert proxy.idle()


@pytest.mark.parametrize("other", ["dead", "draining"])
async def test_a_replica_that_is_dead_or_drains_tokenises_nothing(make: Make, other: str) -> None:
    engine, away = [await make.engine(plays(*answer(TOKENS)), name) for name in ("e1", "e2")]
    routes = replica(away, "m-2", draining=other == "draining")
    proxy = await make.proxy(table(routes))
    if other == "dead":
        await away.stop()
        assert proxy.state.models["m"].replicas["m-2"].connect_failed()
    assert (await ask(proxy)).status_code == 503
    proxy.state.apply(table(routes, replica(engine), version=2))
    assert [error_of(await ask(proxy)) for _ in range(8)] == [SERVED] * 8
    assert len(engine.received) == 8
    assert away.received == []


@pytest.mark.parametrize(
    ("sizes", "running"),
    [([100_000] * 3, 2), ([1_000_000, 10], 1), ([10, 1_000_000], 1), ([50_000] * 5, 4)],
)
async def test_as_many_bytes_are_tokenised_at_once_as_hold_nobody_up(
    make: Make, sizes: list[int], running: int
) -> None:
    """A larger request goes alone. The fair queue counts bytes; none of them is a KV token."""
    slow = Slow()
    proxy, _ = await make.both(slow, at={"kv_cache_tokens": 1000}, workers=1)
    requests = [ask(proxy, prompt="x" * size) for size in sizes]
    model = proxy.state.models["m"]
    await proxy.until(lambda: slow.running() + model.waiting == len(sizes))
    assert slow.running() == running
    assert model.replicas["m-1"].kv_tokens == model.replicas["m-1"].own_kv_tokens == 0
    assert error_of(await proxy.complete()) == SERVED
    paid = model.slots.queue._keys._accounts[""].tag
    charges = [entry.charge for entry in model.tokenising.queue]
    assert all(any(0 < charge - size < 100 for size in sizes) for charge in charges)
    for _ in range(len(sizes)):
        slow.open()
        await settled()
    assert Counter([error_of(await request) for request in requests]) == {SERVED: len(sizes)}
    assert proxy.idle()
    assert model.replicas["m-1"].tokenising.kv_tokens == 0
    assert model.slots.queue._keys._accounts[""].tag == paid, "its slots are another matter"


MESSAGES = {"prompt": None, "messages": [{"role": "user", "content": "x" * 101}]}


@pytest.mark.parametrize("of", ["key", "model"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "x" * 101}),
        ("/tokenize", MESSAGES),
        ("/detokenize", {"tokens": [1] * 26}),
        ("/v1/messages/count_tokens", MESSAGES),
    ],
)
async def test_limits_of_prompts_are_limits_of_what_is_tokenised(
    make: Make, path: str, body: dict[str, Any], of: str
) -> None:
    engine = await make.engine(plays(*answer(TOKENS)))
    limits = RequestLimits(max_prompt_bytes=100)
    keys = (key("a", limits=limits if of == "key" else NO_REQUEST_LIMITS),)
    more: dict[str, Any] = {"limits": limits} if of == "model" else {}
    proxy = await make.proxy(table(replica(engine), keys=keys, **more))
    found = [error_of(await proxy.complete(path, key="a", **each)) for each in (body, {})]
    assert found == [(400, "prompt_too_long"), SERVED]


@pytest.mark.parametrize(("workers", "each"), [(1, 4), (2, 2), (3, 1), (8, 1)])
async def test_workers_share_it(make: Make, workers: int, each: int) -> None:
    proxy, _ = await make.both(route={"max_queue": 100}, workers=workers)
    model = proxy.state.models["m"]
    places = model.replicas["m-1"].tokenising
    assert (places.max_sequences, places.kv_cache_tokens) == (each, TOKENISING_BYTES // workers)
    assert model.tokenising.queue.max_entries == 100 // workers
