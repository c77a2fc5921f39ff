"""Each host's proxy is told of the replicas on its host, whenever that host answers."""

import asyncio
import dataclasses

import pytest

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    RoutingTable,
)
from partitiond.core.errors import ConflictError
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic
from partitiond.hosts.agents import Agents
from partitiond.hosts.proxies import HostsProxies
from tests.controller.fakes import FakeProxy, FakeRunner, a_moment, until
from tests.hosts.pipes import Pipe, agent, piped

TABLE = RoutingTable(
    version=1,
    models=(ModelRoute("a", ModelAvailability.SERVING, "a"),),
    replicas=tuple(
        ReplicaRoute(name, "a", f"/{name}.sock", f"g-{name}", 4, 4096, 512, host=host)
        for name, host in (("a-1", "one"), ("a-2", "two"))
    ),
)


async def both() -> tuple[HostsProxies, FakeProxy, FakeProxy, Pipe]:
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    remote, pipe = piped(two)
    proxies = HostsProxies(Agents([one, remote]), ask_again_seconds=0.005)
    assert await proxies.ensure_running()
    assert not await proxies.ensure_running()
    return proxies, one.proxy, two.proxy, pipe


def routed(proxy: FakeProxy) -> list[str]:
    return [replica.replica_id for replica in proxy.table.replicas]


async def test_each_is_told_of_its_own_replicas_and_asked_about_them() -> None:
    proxies, one, two, _ = await both()
    await proxies.publish(TABLE)
    assert (routed(one), routed(two)) == (["a-1"], ["a-2"])
    one.counts, two.counts = {"a-1": 1}, {"a-2": 2}
    assert await proxies.in_flight() == {"a-1": 1, "a-2": 2}
    one.waiting, two.waiting = {"a": 1}, {"a": 2}
    one.idle_seconds, two.idle_seconds = {"a": 9.0}, {"a": 4.0}
    assert await proxies.traffic() == {"a": Traffic(3, 4.0)}
    one.uses, two.uses = {"k": KeyUse(1, 2, 3, 4)}, {"k": KeyUse(1, 1, 1, 1)}
    assert await proxies.key_use() == {"k": KeyUse(2, 3, 4, 5)}
    with pytest.raises(ConflictError) as older:
        await proxies.publish(dataclasses.replace(TABLE, version=0))
    assert older.value.facts == {"current": 1}


async def test_a_proxy_on_a_silent_host_is_not_asked_and_gets_the_newest_table_later() -> None:
    proxies, one, two, pipe = await both()
    await proxies.publish(TABLE)
    one.counts, two.counts = {"a-1": 1}, {"a-2": 2}
    pipe.cut()
    assert await proxies.in_flight() == {"a-1": 1, "a-2": None}
    assert await proxies.traffic() is None  # requests may wait there
    later = dataclasses.replace(TABLE, version=2, replicas=TABLE.replicas[:1])
    await proxies.publish(later)
    assert (one.table.version, two.table.version) == (2, 1)
    pipe.mend()
    assert await proxies.in_flight() == {"a-1": 1, "a-2": 2}
    assert (two.table.version, routed(two)) == (2, [])
    told = len(two.tables)
    await proxies.in_flight()
    assert len(two.tables) == told


async def test_the_end_of_any_proxy_is_noticed_but_not_of_one_on_a_silent_host() -> None:
    proxies, _, two, pipe = await both()
    exits = asyncio.ensure_future(proxies.wait_exit())
    await a_moment()
    pipe.cut()
    await a_moment()
    two.die()
    await asyncio.sleep(0.02)
    assert not exits.done()
    pipe.mend()
    await until(exits.done)
    assert await proxies.ensure_running()
