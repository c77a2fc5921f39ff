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


@pytest.mark.parametrize(("workers", "each"), [(1, 4), (2, 2), (3, 1), (8, 1)])
async def test_workers_share_it(make: Make, workers: int, each: int) -> None:
    proxy, _ = await make.both(route={"max_queue": 100}, workers=workers)
    model = proxy.state.models["m"]
    assert model.replicas["m-1"].tokenising.max_sequences == each
    assert model.tokenising.queue.max_entries == 100 // workers
