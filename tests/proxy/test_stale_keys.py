"""A proxy that hears nothing of its control plane refuses all keys until the next word."""

import asyncio
import dataclasses
import hashlib
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRoute, RoutingTable
from partitiond.core.keys.stale import ControlWord
from partitiond.platform.process_identity import boot_id
from partitiond.proxy.keys.last_word import WORD_FILE, LastWord, since_boot
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.serde import from_stored_json, to_stored_json
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import DONE, Step, stream, text_event
from tests.proxy.test_supervisor import MakeProcess, make_process  # noqa: F401

SECRET = "sk-good"
KEY = KeyRoute("key-1", hashlib.sha256(SECRET.encode()).hexdigest())
LIMIT = 1000.0


def keyed(*replicas: object, version: int = 1, limit: float = LIMIT) -> RoutingTable:
    routes = table(*replicas, version=version, keys=(KEY,), keys_required=True)  # type: ignore[arg-type]
    return dataclasses.replace(routes, keys_stale_seconds=limit)


def silence(proxy: Proxy, seconds: float) -> None:
    proxy.state.word.learn(LIMIT, since_boot() - seconds)


async def status(proxy: Proxy, secret: str | None = SECRET, path: str = "/v1/completions") -> str:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    async with proxy.client as client:
        if path == "/v1/completions":
            body = {"model": "m", "prompt": "x"}
            answer = await client.post(path, json=body, headers=headers)
        else:
            answer = await client.get(path, headers=headers)
    told = answer.json()
    return f"{answer.status_code} {told.get('error', told).get('code', told.get('status', ''))}"


async def test_all_keys_are_refused_until_the_same_table_is_told_again(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    routes = keyed(replica(await make_engine()))
    proxy = await make_proxy(routes)
    for _ in range(2):  # the second time, head and caller are known
        assert await status(proxy) == "200 "
    silence(proxy, LIMIT - 1)
    assert await status(proxy) == "200 "
    silence(proxy, LIMIT)
    assert await status(proxy) == "503 keys_stale"
    assert await status(proxy, "sk-unknown") == "503 keys_stale"
    assert await status(proxy, None) == "401 invalid_api_key"
    assert await status(proxy, path="/v1/models") == "503 keys_stale"
    assert await status(proxy, path="/healthz") == "503 keys_stale"
    assert proxy.state.metrics.refusals["keys_stale"] == 3
    assert proxy.state.apply(keyed(version=0)) is False  # older: no word
    assert await status(proxy) == "503 keys_stale"
    assert proxy.state.apply(routes)
    assert await status(proxy) == "200 "
    assert await status(proxy, path="/healthz") == "200 ok"


async def test_without_a_limit_or_without_required_keys_nothing_is_refused(
    make_proxy: MakeProxy, make_engine: MakeEngine, folder: Path
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(keyed(replica(engine), limit=0.0))
    proxy.state.word.learn(0.0, None)
    assert await status(proxy) == "200 "
    assert not (folder / "state" / WORD_FILE).exists()
    proxy.state.apply(dataclasses.replace(keyed(replica(engine), version=2), keys_required=False))
    silence(proxy, 2 * LIMIT)
    assert await status(proxy) == "200 "


async def test_a_request_under_way_goes_on(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    go_on = asyncio.Event()
    steps: list[Step] = stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    proxy = await make_proxy(keyed(replica(engine)))

    async def ask() -> httpx.Response:
        body = {"model": "m", "prompt": "x", "stream": True}
        headers = {"authorization": f"Bearer {SECRET}"}
        async with proxy.client as client:
            return await client.post("/v1/completions", json=body, headers=headers)

    running = asyncio.create_task(ask())
    await engine.until(lambda: len(engine.received) == 1)
    silence(proxy, 2 * LIMIT)
    assert await status(proxy) == "503 keys_stale"
    go_on.set()
    assert (await running).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("word", "known"),
    [
        (ControlWord(boot_id(), 5.5), 5.5),
        (ControlWord("another", 5.5), None),
        (None, None),
        ("{", None),
    ],
)
def test_the_word_on_disk_counts_in_its_own_boot_alone(
    tmp_path: Path, word: ControlWord | str | None, known: float | None
) -> None:
    path = tmp_path / WORD_FILE
    if word is not None:
        path.write_text(word if isinstance(word, str) else to_stored_json(word))
    found = LastWord(path, lambda: 6.0)
    found.load()
    assert found.at == known
    found.limit_seconds = 10.0
    assert found.is_stale() is (known is None)
    found.hear(10.0)
    assert not found.is_stale()
    assert from_stored_json(ControlWord, path.read_bytes()) == ControlWord(boot_id(), 6.0)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_silence_outlives_the_process(
    make_process: MakeProcess,  # noqa: F811
    make_engine: MakeEngine,
    folder: Path,
    workers: int,
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
    path = folder / "s" / WORD_FILE
    heard = json.loads(path.read_text())
    assert abs(heard["at"] - since_boot()) < LIMIT / 2
    assert await process.ensure_running()
    assert await asked(process) == 200  # it was heard of a moment ago
    exit_seen = asyncio.create_task(process.wait_exit())
    await asyncio.sleep(0)
    os.kill(process.identity.pid, signal.SIGKILL)
    await exit_seen
    path.write_text(json.dumps({**heard, "at": heard["at"] - 2 * LIMIT}))
    assert await process.ensure_running()
    assert await asked(process) == 503
    await process.sample()
    await process.state()
    assert await asked(process) == 503  # a question is no word
    await process.publish(routes)
    assert await asked(process) == 200


async def asked(process: ProxyProcess) -> int:
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(verify=False, timeout=300) as client:
        body = {"model": "m", "prompt": "x"}
        url = f"{process.base_url}/v1/completions"
        return (await client.post(url, json=body, headers=headers)).status_code
