"""Hosts with several workers each serve each other as those with one process do."""

import asyncio
import collections
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRates, KeyRoute, PeerRoute, RoutingTable
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.hosts import tables_of
from tests.proxy.scripted import (
    DONE,
    Received,
    Script,
    Step,
    answer,
    completion,
    stream,
    text_event,
)
from tests.proxy.workers.test_parent import (
    Counting,
    all_up,
    clients,
    control,
    load,
    replaced,
)

Processes = dict[str, ProxyProcess]
MODELS = ("m", "n")
OWNERS = {"m-1": "b", "n-1": "a"}


@pytest.fixture
async def hosts(folder: Path) -> AsyncIterator[Processes]:
    """The proxies of two hosts, with two workers each."""
    made: Processes = {}
    for name in ("a", "b"):
        own = folder / name
        own.mkdir()
        options = ProxyOptions(workers=2, peers_address=f"unix:{own}/peers/s")
        made[name] = ProxyProcess(
            host="127.0.0.1", port=0, state_dir=own, control_socket=own / "run" / "c",
            options=options,
        )  # fmt: skip
    try:
        await asyncio.gather(*(one.ensure_running() for one in made.values()))
        yield made
    finally:
        await asyncio.gather(*(one.stop(0) for one in made.values()))


async def tell(hosts: Processes, routes: RoutingTable, folder: Path) -> None:
    """Tell all workers of all hosts their part, and wait until each serves both models."""
    for one in hosts.values():
        await all_up(one)
    peers = [PeerRoute(name, f"unix:{folder / name}/peers/s") for name in hosts]
    tables = tables_of(routes, peers, OWNERS)
    for name in reversed(hosts):  # b knows a before a calls
        await hosts[name].publish(tables.of(name))


def waiting_for(go: asyncio.Event) -> Script:
    return lambda _: stream(text_event("hel"), go, text_event("lo", "stop"), DONE)


class Streams:
    """Streams of one host's clients, each on a connection of its own."""

    def __init__(self, client: httpx.AsyncClient, count: int) -> None:
        self._begun = asyncio.Semaphore(0)
        self._count = count
        self.ended: list[str] = []
        """How each has ended: "whole", "error" for an error event and a proper end, or "reset"."""
        self._tasks = [asyncio.create_task(self._one(client)) for _ in range(count)]

    async def _one(self, client: httpx.AsyncClient) -> None:
        text = ""
        asked = {"model": "m", "prompt": "x", "stream": True}
        try:
            async with client.stream("POST", "/v1/completions", json=asked) as answer:
                async for part in answer.aiter_text():
                    if not text:
                        self._begun.release()
                    text += part
        except httpx.HTTPError:
            self.ended.append("reset")
            return
        assert text.endswith("data: [DONE]\n\n"), text
        last = json.loads(text.split("\n\n")[-3].removeprefix("data: "))
        self.ended.append("error" if "error" in last else "whole")

    async def begun(self) -> None:
        """Wait until each has its first content."""
        async with asyncio.timeout(120):
            for _ in range(self._count):
                await self._begun.acquire()

    async def until_ended(self, count: int) -> None:
        """Wait until so many have ended."""
        async with asyncio.timeout(120):
            while len(self.ended) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def all(self) -> collections.Counter[str]:
        """How all of them ended."""
        await asyncio.gather(*self._tasks)
        return collections.Counter(self.ended)


async def in_flight(process: ProxyProcess, count: int) -> None:
    async with asyncio.timeout(120):
        while sum((await process.in_flight() or {}).values()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_workers_of_either_host_serve_both_models_within_the_limits_of_each(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    scripts = Counting(0.01), Counting(0.01)
    engines = [await make_engine(script, f"e{n}") for n, script in enumerate(scripts)]
    limit: dict[str, Any] = {"max_sequences": 3}
    routes = table(
        replica(engines[0], "m-1", **limit), replica(engines[1], "n-1", "n", **limit),
        models=MODELS, max_queue=1000,
    )  # fmt: skip
    await tell(hosts, routes, folder)

    def enough() -> bool:
        return all(len(engine.received) > 60 for engine in engines)

    loads = [load(one, 6, enough, model=model) for one in hosts.values() for model in MODELS]
    assert sum(await asyncio.gather(*loads), collections.Counter()).keys() == {200}
    assert [script.most for script in scripts] == [3, 3]
    # What a host's client asked is counted there, and what runs there is counted there.
    total = sum(len(engine.received) for engine in engines)
    stats = [await one.stats() for one in hosts.values()]
    assert sum(one["partitiond_proxy_requests_total"] for one in stats) == total
    for one in hosts.values():
        await in_flight(one, 0)


@pytest.mark.full
async def test_a_worker_that_is_killed_ends_its_own_streams_alone(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    go = asyncio.Event()
    engine = await make_engine(waiting_for(go))
    await tell(hosts, table(replica(engine, max_sequences=64), models=MODELS), folder)
    a, b = hosts["a"], hosts["b"]
    async with clients(a, 12) as at_a, clients(b, 4) as at_b:
        remote, local = Streams(at_a, 8), Streams(at_b, 4)
        await remote.begun()
        await local.begun()
        await in_flight(b, 12)

        entry = (await all_up(a))[0]
        os.kill(entry, signal.SIGKILL)
        await in_flight(b, 8)
        await replaced(a, entry)
        more = Streams(at_a, 4)  # at the new worker, which has no other
        await more.begun()

        owner = (await all_up(b))[0]
        os.kill(owner, signal.SIGKILL)
        await replaced(b, owner)
        await in_flight(b, 6)  # four of the one worker of a that had called the other one here
        later = Streams(at_a, 4)
        await later.begun()
        go.set()
        ends = await remote.all() + await more.all()
        assert ends == {"reset": 4, "error": 4, "whole": 4}
        assert await local.all() == {"reset": 2, "whole": 2}
        assert await later.all() == {"whole": 4}
    for one in hosts.values():
        await in_flight(one, 0)


@pytest.mark.full
async def test_workers_of_either_host_are_replaced_without_a_failed_request(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    go = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return waiting_for(go)(request) if request.body.get("stream") else answer(completion())

    engine = await make_engine(script)
    routes = table(replica(engine, max_sequences=64), models=MODELS, max_queue=1000)
    await tell(hosts, routes, folder)
    a, b = hosts["a"], hosts["b"]
    over = asyncio.Event()
    loading = [asyncio.create_task(load(one, 4, over.is_set)) for one in hosts.values()]
    async with clients(a, 4) as at_a:
        running = Streams(at_a, 4)
        await running.begun()
        for one in (b, a):
            before = await all_up(one)
            assert (await control(one, "POST", "/restart-workers")).status_code == 202
            await others_serve(one, before)
            count = len(engine.received)
            await engine.until(lambda c=count: len(engine.received) > c + 50)  # type: ignore[misc]
        assert not running.ended
        go.set()
        assert await running.all() == {"whole": 4}
    over.set()
    assert sum(await asyncio.gather(*loading), collections.Counter()).keys() == {200}
    await replaced(b, *before)
    for one in hosts.values():
        await in_flight(one, 0)


async def others_serve(process: ProxyProcess, before: list[int]) -> None:
    """Wait until others than these serve; these may still be leaving."""
    async with asyncio.timeout(120):
        while set(await all_up(process)) & set(before):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.full
async def test_the_limits_of_a_key_hold_over_all_workers_of_all_hosts(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    go = asyncio.Event()
    engine = await make_engine(waiting_for(go))
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("few", "once")}
    keys = (
        KeyRoute("few", digests["few"], rates=KeyRates(max_in_flight=8)),
        KeyRoute("once", digests["once"], rates=KeyRates(token_budget=400)),
    )
    routes = table(
        replica(engine, max_sequences=64), models=MODELS, keys=keys, keys_required=True
    )  # fmt: skip
    await tell(hosts, routes, folder)
    a, b = hosts["a"], hosts["b"]
    body = {"model": "m", "prompt": "hi", "max_tokens": 10, "stream": True}

    async with clients(a, 24) as at_a, clients(b, 24) as at_b, asyncio.TaskGroup() as tasks:

        async def stream(client: httpx.AsyncClient, key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            reply = await client.post("/v1/completions", json=body, headers=headers)
            return reply.status_code

        async def until_refused(key: str, count: int) -> None:
            """Ask all workers until so many run and no more is admitted for a while."""
            refused = 0
            while len(engine.received) < count or refused < 30:
                made = [tasks.create_task(stream(client, key)) for client in (at_a, at_b)]
                await asyncio.sleep(0.03)
                refused += sum(task.done() and task.result() == 429 for task in made)

        async with asyncio.timeout(120):
            await until_refused("few", 6)
            assert 6 <= len(engine.received) <= 8 + 1
            go.set()
            await in_flight(b, 0)
            before = len(engine.received)
            keeper = (await all_up(a))[0]
            await until_refused("once", before + 10)
            os.kill(keeper, signal.SIGKILL)
            await replaced(a, keeper)
            await until_refused("once", before + 10)
    used = [(await one.state() or {})["keys"]["once"]["budget_used"] for one in hosts.values()]
    assert 0.5 * 400 < sum(used) <= 400 + 2 * 30  # one of the other host, one of the new keeper
    assert all(used)
