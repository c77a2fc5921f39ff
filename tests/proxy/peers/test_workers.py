"""Hosts with several workers each serve each other as those with one process do."""

import asyncio
import collections
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import PeerRoute, RoutingTable
from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.conftest import MakeEngine, MakeProcess, replica, table
from tests.proxy.peers.hosts import tables_of
from tests.proxy.scraped import stats_of
from tests.proxy.workers.test_parent import (
    Counting,
    all_up,
    clients,
    held_stream,
    load,
    replaced,
    until_state,
)

Processes = dict[str, ProxyProcess]
MODELS = ("m", "n")
OWNERS = {"m-1": "b", "n-1": "a"}


@pytest.fixture
async def hosts(make_process: MakeProcess, folder: Path) -> Processes:
    """The proxies of two hosts, with two workers each."""
    made = {
        name: make_process(name, workers=2, peers_address=f"unix:{folder}/{name}/peers/s")
        for name in ("a", "b")
    }
    await asyncio.gather(*(one.ensure_running() for one in made.values()))
    return made


async def tell(hosts: Processes, routes: RoutingTable, folder: Path) -> None:
    """Tell all workers of all hosts their part."""
    for one in hosts.values():
        await all_up(one)
    peers = [PeerRoute(name, f"unix:{folder / name}/peers/s") for name in hosts]
    tables = tables_of(routes, peers, OWNERS)
    for name in reversed(hosts):  # b knows a before a calls
        await hosts[name].publish(tables.of(name))


class Streams:
    """Streams of one host's clients, each on a connection of its own."""

    def __init__(self, client: httpx.AsyncClient, count: int) -> None:
        self._begun = asyncio.Semaphore(0)
        self._tasks = [asyncio.create_task(self._one(client)) for _ in range(count)]

    async def _one(self, client: httpx.AsyncClient) -> str:
        text = ""
        asked = {"model": "m", "prompt": "x", "stream": True}
        try:
            async with client.stream("POST", "/v1/completions", json=asked) as answer:
                async for part in answer.aiter_text():
                    if not text:
                        self._begun.release()
                    text += part
        except httpx.HTTPError:
            return "reset"
        assert text.endswith("data: [DONE]\n\n"), text
        return "error" if '"error"' in text else "whole"

    async def begun(self) -> None:
        """Wait until each has its first content."""
        async with asyncio.timeout(120):
            for _ in self._tasks:
                await self._begun.acquire()

    def running(self) -> int:
        """Return how many have not ended."""
        return sum(not task.done() for task in self._tasks)

    async def ends(self) -> collections.Counter[str]:
        """How all of them ended."""
        return collections.Counter(await asyncio.gather(*self._tasks))


def running(all_streams: Iterable[Streams]) -> int:
    """Return how many have not ended."""
    return sum(one.running() for one in all_streams)


async def in_flight(process: ProxyProcess, count: int) -> None:
    await until_state(process, lambda state: sum(state["in_flight"].values()) == count)


async def test_workers_of_either_host_serve_both_models_within_the_limits_of_each(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    scripts = Counting(0.01), Counting(0.01)
    engines = [await make_engine(script, f"e{n}") for n, script in enumerate(scripts)]
    limit: dict[str, Any] = {"max_sequences": 3}
    routes = replica(engines[0], "m-1", **limit), replica(engines[1], "n-1", "n", **limit)
    await tell(hosts, table(*routes, models=MODELS, max_queue=1000), folder)

    def enough() -> bool:
        return all(len(engine.received) > 60 for engine in engines)

    loads = [load(one, 6, enough, model=model) for one in hosts.values() for model in MODELS]
    assert sum(await asyncio.gather(*loads), collections.Counter()).keys() == {200}
    assert [script.most for script in scripts] == [3, 3]
    # What a host's client asked is counted there, and what runs there is counted there.
    total = sum(len(engine.received) for engine in engines)
    stats = [await stats_of(one) for one in hosts.values()]
    assert sum(one["partitiond_proxy_requests_total"] for one in stats) == total
    for one in hosts.values():
        await in_flight(one, 0)


@pytest.mark.full
async def test_a_worker_that_is_killed_ends_its_own_streams_alone(
    hosts: Processes, make_engine: MakeEngine, folder: Path
) -> None:
    go = asyncio.Event()
    engine = await make_engine(lambda _: held_stream(go))
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
        # Each stream is a connection, and those of one entry are spread over the owner's workers.
        streams = remote, more, local
        await until_state(b, lambda state: 0 < running(streams) == sum(state["in_flight"].values()))
        left = running(streams)
        later = Streams(at_a, 4)
        await later.begun()
        go.set()
        ends = await remote.ends() + await more.ends()
        at_owner = await local.ends()
        assert ends["reset"] == 4
        assert ends["whole"] + at_owner["whole"] == left < 12
        assert await later.ends() == {"whole": 4}
    for one in hosts.values():
        await in_flight(one, 0)
