"""A proxy that hears nothing of its control plane refuses all keys until the next word."""

import asyncio
import dataclasses
import os
import signal

import httpx
import pytest

from partitiond.core.dispatch.routing import ReplicaRoute, RoutingTable
from partitiond.proxy.keys.last_word import since_boot
from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.conftest import Make, MakeEngine, MakeProcess, Proxy, key, replica, table
from tests.proxy.scripted import DONE, plays, stream, text_event

LIMIT = 1000.0


def keyed(*replicas: ReplicaRoute, version: int = 1, limit: float = LIMIT) -> RoutingTable:
    routes = table(*replicas, version=version, keys=(key(),), keys_required=True)
    return dataclasses.replace(routes, keys_stale_seconds=limit)


async def status(proxy: Proxy, secret: str = "k1", path: str = "/v1/completions") -> str:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    async with proxy.client as client:
        body = {"json": {"model": "m", "prompt": "x"}} if path == "/v1/completions" else {}
        method = "POST" if body else "GET"
        answer = await client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]
    told = answer.json()
    return f"{answer.status_code} {told.get('error', told).get('code', told.get('status', ''))}"


def silence(proxy: Proxy, seconds: float) -> None:
    proxy.state.word.learn(LIMIT, since_boot() - seconds)


async def test_all_keys_are_refused_until_the_same_table_is_told_again(make: Make) -> None:
    """What is under way goes on."""
    go_on = asyncio.Event()
    engine = await make.engine()
    routes = keyed(replica(engine))
    proxy = await make.proxy(routes)
    for _ in range(2):  # the second time, head and caller are known
        assert await status(proxy) == "200 "
    silence(proxy, LIMIT - 1)
    assert await status(proxy) == "200 "
    engine.script = plays(*stream(text_event("hel"), go_on, DONE))
    running = proxy.ask(key="k1", stream=True)
    await engine.got(4)
    silence(proxy, LIMIT)
    assert await status(proxy) == "503 keys_stale"
    assert await status(proxy, "sk-unknown") == "503 keys_stale"
    assert await status(proxy, "") == "401 invalid_api_key"
    assert await status(proxy, path="/v1/models") == "503 keys_stale"
    assert await status(proxy, path="/healthz") == "503 keys_stale"
    assert proxy.state.metrics.refusals["keys_stale"] == 3
    assert proxy.state.apply(keyed(version=0)) is False  # older: no word
    assert await status(proxy) == "503 keys_stale"
    go_on.set()
    assert (await running).text.endswith("data: [DONE]\n\n")
    assert proxy.state.apply(routes)
    assert await status(proxy, path="/v1/models") == "200 "
    assert await status(proxy, path="/healthz") == "200 ok"


async def test_without_a_limit_or_without_required_keys_nothing_is_refused(make: Make) -> None:
    engine = await make.engine()
    proxy = await make.proxy(keyed(replica(engine), limit=0.0))
    proxy.state.word.learn(0.0, None)
    assert await status(proxy) == "200 "
    proxy.state.apply(dataclasses.replace(keyed(replica(engine), version=2), keys_required=False))
    silence(proxy, 2 * LIMIT)
    assert await status(proxy) == "200 "


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_is_started_again_accepts_no_keys_before_a_word(
    make_process: MakeProcess, make_engine: MakeEngine, workers: int
) -> None:
    process = make_process(workers=workers)
    await process.ensure_running()
    routes = keyed(replica(await make_engine()))
    await process.publish(routes)
    assert await asked(process) == 200
    assert process.identity is not None
    exit_seen = asyncio.create_task(process.wait_exit())
    await asyncio.sleep(0)
    os.kill(process.identity.pid, signal.SIGKILL)
    await exit_seen
    assert await process.ensure_running()
    assert await asked(process) == 503
    await process.sample()
    await process.state()
    assert await asked(process) == 503  # a question is no word
    await process.publish(routes)
    assert await asked(process) == 200


async def asked(process: ProxyProcess) -> int:
    async with httpx.AsyncClient(verify=False, timeout=300) as client:
        body, headers = {"model": "m", "prompt": "x"}, {"authorization": "Bearer k1"}
        url = f"{process.base_url}/v1/completions"
        return (await client.post(url, json=body, headers=headers)).status_code
