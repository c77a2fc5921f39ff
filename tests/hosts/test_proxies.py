"""Each host's proxy is told of the replicas on its host, whenever that host answers."""

import asyncio
import dataclasses

import pytest

from partitiond.core.demand.traffic import ModelCount, TrafficSample
from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
    TablesOfHosts,
)
from partitiond.core.errors import ConflictError, DeviceError
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic
from partitiond.hosts.agents import Agents
from partitiond.hosts.proxies import HostsProxies
from partitiond.ports.host import HostTable
from tests.controller.fakes import FakeProxy, FakeRunner, until
from tests.hosts.pipes import Pipe, agent, piped
from tests.hosts.virtual_time import passes, virtual

TABLE = RoutingTable(
    version=1,
    models=(ModelRoute("a", ModelAvailability.SERVING, "a"),),
    replicas=tuple(
        ReplicaRoute(name, "a", f"/{name}.sock", f"g-{name}", 4, 4096, 512, host=host)
        for name, host in (("a-1", "one"), ("a-2", "two"))
    ),
)

LOST: set[str] = set()


async def both() -> tuple[HostsProxies, FakeProxy, FakeProxy, Pipe]:
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    remote, pipe = piped(two)
    proxies = HostsProxies(
        Agents([one, remote]), ask_again_seconds=0.005, lost=lambda: LOST, tell_seconds=60.0
    )
    LOST.clear()
    assert await proxies.ensure_running()
    assert not await proxies.ensure_running()
    assert await two.proxy.ensure_running()
    return proxies, one.proxy, two.proxy, pipe


def routed(proxy: FakeProxy) -> list[str]:
    return [replica.replica_id for replica in proxy.table.replicas]


@virtual
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


@virtual
async def test_a_head_that_starts_again_leaves_each_proxy_its_table_until_it_has_one() -> None:
    """And asks what is in flight by that table, though nobody has looked at the hosts yet."""
    former, one, two, _ = await both()
    await former.publish(dataclasses.replace(TABLE, version=57))
    one.counts, two.counts = {"a-1": 1}, {"a-2": 3}
    proxies = HostsProxies(
        former._agents, quiet=lambda _: True, ask_again_seconds=0.001, tell_seconds=60.0
    )
    assert not await proxies.ensure_running()
    exits = asyncio.ensure_future(proxies.wait_exit())
    assert await proxies.in_flight() == {"a-1": 1, "a-2": 3}
    await passes(1.0)  # the proxies are kept running meanwhile
    assert (two.table.version, routed(two)) == (57, ["a-2"])
    await proxies.publish(dataclasses.replace(TABLE, version=58, replicas=TABLE.replicas[:1]))
    await until(lambda: routed(two) == [])
    one.die()
    assert await exits == 0


@virtual
async def test_a_table_that_arrives_late_takes_no_newer_one_back() -> None:
    proxies, _, two, _ = await both()
    await proxies.publish(TABLE)
    take, late = two.publish, asyncio.Event()

    async def slow(table: RoutingTable) -> None:
        if table.version == 2:
            await late.wait()
        await take(table)

    setattr(two, "publish", slow)  # noqa: B010 - types forbid it
    proxies._tell_seconds = 0.01
    await proxies.publish(dataclasses.replace(TABLE, version=2))
    newest = dataclasses.replace(TABLE, version=3, keys_required=True)
    proxies._table = newest
    proxies._parts = TablesOfHosts(newest)
    host = proxies._hosts["two"]
    await proxies._tell(host)
    late.set()
    assert host.telling is not None
    await host.telling
    assert [table.version for table in two.tables] == [1, 3]


@virtual
async def test_a_proxy_on_a_silent_host_is_not_asked_and_gets_the_newest_table_later() -> None:
    proxies, one, two, pipe = await both()
    await proxies.publish(TABLE)
    one.counts, two.counts = {"a-1": 1}, {"a-2": 2}
    pipe.cut()
    assert await proxies.in_flight() == {"a-1": 1, "a-2": None}
    assert await proxies.traffic() is None  # requests may wait there
    LOST.add("two")
    assert await proxies.traffic() == {"a": Traffic(0, 0.0)}  # nobody waits for it any more
    LOST.clear()
    later = dataclasses.replace(TABLE, version=2, replicas=TABLE.replicas[:1])
    await proxies.publish(later)
    assert (one.table.version, two.table.version) == (2, 1)
    pipe.mend()
    assert await proxies.in_flight() == {"a-1": 1, "a-2": 2}
    assert (two.table.version, routed(two)) == (2, [])
    told = len(two.tables)
    await proxies.in_flight()
    assert len(two.tables) == told


@virtual
async def test_other_hosts_proxies_are_kept_running_and_told_beside_the_own_one() -> None:
    proxies, one, two, pipe = await both()
    await proxies.publish(TABLE)
    two.die()
    two.refuse_start = DeviceError("its port is in use.")
    exits = asyncio.ensure_future(proxies.wait_exit())
    await until(lambda: "port" in proxies.told()["two"].problem)
    later = dataclasses.replace(TABLE, version=2)
    await proxies.publish(later)  # nothing holds up the own host's
    assert one.table.version == 2
    two.refuse_start = None
    await until(lambda: two.alive and two.table.version == 2)
    await until(lambda: proxies.told()["two"].table == later)
    assert proxies.told()["two"].problem == ""
    pipe.cut()
    await until(lambda: bool(proxies.told()["two"].problem))
    two.die()
    assert not exits.done()
    pipe.mend()
    await until(lambda: two.alive)
    one.die()
    assert await exits == 0


@virtual
async def test_hosts_that_were_not_told_are_known_until_they_have_the_newest_table() -> None:
    proxies, _, two, pipe = await both()
    await proxies.publish(TABLE)
    assert {name: told.table for name, told in proxies.told().items()} == {
        "one": TABLE,
        "two": TABLE,
    }
    pipe.cut()
    later = dataclasses.replace(TABLE, version=2, keys_required=True)
    await proxies.publish(later)
    told = proxies.told()
    assert (told["one"].table, told["two"].table) == (later, TABLE)
    assert "cut" in told["two"].problem
    pipe.mend()
    two.newest = 70  # of an earlier life of the store
    await proxies.in_flight()
    assert proxies.told()["two"] == HostTable(later, "")
    assert two.table.version == 71


@virtual
async def test_a_proxy_is_told_what_is_new_on_its_host_and_that_its_keys_are_the_newest() -> None:
    proxies, one, two, _ = await both()
    await proxies.publish(TABLE)
    gone = dataclasses.replace(TABLE, version=2, replicas=TABLE.replicas[1:])
    await proxies.publish(gone)
    assert (routed(one), len(two.tables)) == ([], 1)
    assert proxies.told() == {"one": HostTable(gone, ""), "two": HostTable(gone, "")}
    assert await proxies.in_flight() == {}
    assert len(two.tables) == 1
    await proxies.publish(gone)  # a word
    assert [table.version for table in two.tables] == [1, 2]
    required = dataclasses.replace(gone, version=3, keys_required=True)
    await proxies.publish(required)
    assert two.table.keys_required
    stale = dataclasses.replace(required, version=4, keys_stale_seconds=1e-9)
    await proxies.publish(stale)
    await passes(1.0)
    await proxies.publish(dataclasses.replace(stale, version=5))  # a word is due
    assert [table.version for table in two.tables] == [1, 2, 3, 4, 5]


@virtual
async def test_each_proxy_is_told_of_the_others_until_their_hosts_are_lost() -> None:
    """What a silent host said last goes on to count: the others may well reach its proxy."""
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    one.peers_address, two.peers_address = "10.0.0.1:6387", "10.0.0.2:6387"
    remote, pipe = piped(two)
    old = agent("old", FakeRunner())
    agents = Agents([one, remote, piped(old)[0]])
    proxies = HostsProxies(agents, ask_again_seconds=0.005, lost=lambda: LOST, tell_seconds=60.0)
    LOST.clear()
    here, there = PeerRoute("one", "10.0.0.1:6387"), PeerRoute("two", "10.0.0.2:6387")
    for proxy in (proxies, two.proxy, old.proxy):
        await proxy.ensure_running()
    await proxies.publish(TABLE)
    assert (one.proxy.table.host, one.proxy.table.peers) == ("one", (here,))  # nobody looked yet
    assert (two.proxy.table.host, two.proxy.table.peers) == ("two", ())

    exits = asyncio.ensure_future(proxies.wait_exit())
    await asyncio.to_thread(remote.look)  # nothing else is new, and no version is
    await until(lambda: one.proxy.table.peers == two.proxy.table.peers == (here, there))
    assert (one.proxy.table.version, two.proxy.table.version) == (1, 1)
    assert (old.proxy.table.host, old.proxy.table.peers) == ("old", ())  # it serves its own

    pipe.cut()
    await proxies.publish(dataclasses.replace(TABLE, version=2))
    assert one.proxy.table.peers == (here, there)
    LOST.add("two")
    await until(lambda: one.proxy.table.peers == (here,))
    assert one.proxy.table.version == 2
    LOST.clear()
    pipe.mend()
    await until(lambda: one.proxy.table.peers == two.proxy.table.peers == (here, there))
    told = len(one.proxy.tables)
    await passes(1.0)  # several looks, none of which has news
    assert len(one.proxy.tables) == told
    one.proxy.die()
    await exits


@virtual
async def test_a_proxy_that_refuses_its_table_is_told_again_and_not_asked() -> None:
    """What it says would be of replicas that it may not know."""
    proxies, _, two, _ = await both()
    await proxies.publish(TABLE)
    two.counts = {"a-2": 2}
    take = two.publish

    async def refuse(table: RoutingTable) -> None:
        raise DeviceError("its disk is full.")

    setattr(two, "publish", refuse)  # noqa: B010 - types forbid it
    later = dataclasses.replace(TABLE, version=2, replicas=TABLE.replicas[:1])
    await proxies.publish(later)
    assert proxies.told()["two"] == HostTable(TABLE, "its disk is full.")
    assert (await proxies.in_flight() or {}).get("a-2") is None
    setattr(two, "publish", take)  # noqa: B010
    await proxies.publish(dataclasses.replace(TABLE, version=3))  # as it was before
    assert two.table.version == 3
    assert (await proxies.in_flight() or {})["a-2"] == 2


@virtual
async def test_counts_of_all_proxies_are_added_up_and_each_ones_are_there() -> None:
    proxies, one, two, pipe = await both()
    await proxies.publish(TABLE)
    one.sampled, two.sampled = counted("1", 5), counted("2", 50)
    assert await proxies.sample() is not None
    one.sampled, two.sampled = counted("1", 7), counted("2", 53)
    found = await proxies.sample()
    assert found is not None
    assert (found.models["a"].arrived, found.own) == (5, "one")
    assert found.hosts == {"one": one.sampled, "two": two.sampled}
    assert proxies.unreached() == {"one": (), "two": ()}
    peers = {"three": True, "two": False, "four": False}
    one.sampled = dataclasses.replace(one.sampled, peers=peers)
    await proxies.sample()
    assert proxies.unreached() == {"one": ("four", "two"), "two": ()}
    pipe.cut()
    silent = await proxies.sample()
    assert silent is not None
    assert silent.models["a"].arrived == 5
    assert silent.hosts.keys() == proxies.unreached().keys() == {"one"}


def counted(epoch: str, arrived: int) -> TrafficSample:
    return TrafficSample(0.0, epoch, {"a": ModelCount(arrived=arrived)})


@virtual
async def test_metrics_of_all_proxies_are_shown_with_their_hosts() -> None:
    proxies, _, _, pipe = await both()
    await proxies.publish(TABLE)
    name = "partitiond_proxy_requests_total"
    assert await proxies.metrics_text() == (f'{name}{{host="one"}} 7.0\n{name}{{host="two"}} 7.0\n')
    pipe.cut()
    assert await proxies.metrics_text() == f'{name}{{host="one"}} 7.0\n'
