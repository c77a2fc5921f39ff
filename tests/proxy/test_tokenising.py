"""Tokenising requests take no slot: few at once per replica, the rest in a queue of their own."""

import asyncio
from collections import Counter

import httpx
import pytest

from partitiond.core.dispatch.admission import service_time
from partitiond.proxy.dispatch.replicas import TOKENISING_AT_ONCE
from tests.proxy.conftest import Make, Proxy, error_of, replica, table
from tests.proxy.scripted import Gate, Received, Step, answer, completion, plays

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


async def until_done(proxy: Proxy, requests: list[asyncio.Task[httpx.Response]], n: int) -> None:
    await proxy.until(lambda: sum(request.done() for request in requests) == n)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_flood_reaches_each_engine_a_few_at_a_time(make: Make, replicas: int) -> None:
    """100 at once of 20 KB: some wait, the others are told when to come again."""
    slows = [Slow() for _ in range(replicas)]
    engines = [await make.engine(slow, f"e{n}") for n, slow in enumerate(slows)]
    routes = [replica(engine, f"m-{n}", max_sequences=1) for n, engine in enumerate(engines)]
    proxy = await make.proxy(table(*routes, max_queue=36, max_wait_seconds=600))
    proxy.state.models["m"].tokenising.service = service_time(10.0)
    places = replicas * TOKENISING_AT_ONCE
    served = 36 + places
    requests = [ask(proxy, ROUTES[n % len(ROUTES)], prompt="x" * 20_000) for n in range(100)]
    await until_done(proxy, requests, 100 - served)
    assert proxy.state.queues() == {"m": 36}
    assert error_of(await proxy.complete()) == SERVED, "others have their slot"
    while not all(request.done() for request in requests):
        left = sum(not request.done() for request in requests)
        await proxy.until(
            lambda left=left: sum(slow.running() for slow in slows) == min(places, left)  # type: ignore[misc]
        )
        assert max(slow.running() for slow in slows) <= TOKENISING_AT_ONCE
        for slow in slows:
            slow.open()
        await until_done(proxy, requests, 100 - left + min(places, left))
    responses = await asyncio.gather(*requests)
    assert Counter(map(error_of, responses)) == {SERVED: served, (429, "queue_full"): 100 - served}
    # 37 that take 10 s each.
    later = {int(r.headers["retry-after"]) for r in responses if r.status_code == 429}
    assert later == {-(-370 // places)}
    assert sum(len(engine.received) for engine in engines) == served + 1
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


@pytest.mark.parametrize(("workers", "each"), [(1, 4), (2, 2), (3, 1), (8, 1)])
async def test_workers_share_it(make: Make, workers: int, each: int) -> None:
    proxy, _ = await make.both(route={"max_queue": 100}, workers=workers)
    model = proxy.state.models["m"]
    assert model.replicas["m-1"].tokenising.max_sequences == each
    assert model.tokenising.queue.max_entries == 100 // workers
