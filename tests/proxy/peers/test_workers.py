"""Hosts with several workers each serve each other as those with one process do."""

import asyncio
import collections
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.routing import PeerRoute, RoutingTable
from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.conftest import MakeEngine, MakeProcess, replica, table
from tests.proxy.peers.hosts import tables_of
from tests.proxy.scraped import stats_of
from tests.proxy.scripted import Received, Step, answer, completion
from tests.proxy.workers.test_parent import all_up, load, until_state

Processes = dict[str, ProxyProcess]
MODELS = ("m", "n")
OWNERS = {"m-1": "b", "n-1": "a"}


class Counting:
    """An engine script that notes how many requests run at once."""

    def __init__(self, engine_seconds: float) -> None:
        self.seconds = engine_seconds
        self.running = 0
        self.most = 0

    def __call__(self, _: Received) -> list[Step]:
        self.running += 1
        self.most = max(self.most, self.running)
        asyncio.get_running_loop().call_later(self.seconds, self._end)
        # It counts as ended before its answer is sent, so none is counted too long.
        return [self.seconds + 0.001, *answer(completion())]

    def _end(self) -> None:
        self.running -= 1


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
