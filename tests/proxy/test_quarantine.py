"""Requests that a replica may have died of are quarantined by the proxy."""

import asyncio
import json

import httpx

from partitiond.core.dispatch.quarantine import Exposure, Quarantine, QuarantinePolicy, fingerprint
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import Received, Step, answer, completion

BODY = json.dumps({"model": "m", "prompt": "the suspect"}).encode()


async def send(proxy: Proxy) -> httpx.Response:
    async with proxy.client as client:
        headers = {"content-type": "application/json"}
        return await client.post("/v1/completions", content=BODY, headers=headers)


async def test_the_only_request_on_a_dead_engine_is_neither_retried_nor_taken_again(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    other = await make_engine(name="e2")

    def dies(request: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine = await make_engine(dies)
    proxy = await make_proxy(table(replica(engine), replica(other, "m-2", draining=True)))
    killed = asyncio.create_task(send(proxy))
    await engine.until(lambda: len(engine.received) == 1)
    proxy.state.apply(table(replica(engine), replica(other, "m-2"), version=2))
    for got in (await killed, await send(proxy)):
        assert (got.status_code, got.json()["error"]["code"]) == (422, "request_quarantined")
    assert other.received == []
    assert proxy.idle()


async def test_of_twins_on_trial_one_is_let_through_however_often_the_other_asks(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return [go, *answer(completion())]

    engine = await make_engine(script)
    proxy = await make_proxy(table(replica(engine)))
    proxy.state.quarantine = Quarantine(QuarantinePolicy(alone_seconds=0.0))
    now = asyncio.get_running_loop().time()
    proxy.state.quarantine.died([Exposure(fingerprint("m", BODY), 0.1)], now)
    tried = asyncio.create_task(send(proxy))
    await engine.until(lambda: len(engine.received) == 1)
    async with asyncio.timeout(30):
        for _ in range(3):
            refused = await send(proxy)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                503,
                "request_on_trial",
            )
    go.set()
    assert (await tried).status_code == 200
    assert (await send(proxy)).status_code == 200, "it has ended well, and is cleared"
    assert len(engine.received) == 2
