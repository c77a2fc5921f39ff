"""Each host's proxy is told of the replicas on its host, whenever that host answers."""

import asyncio
import dataclasses
from typing import Any

import pytest

from partitiond.core.demand.traffic import KeyCount, ModelCount, TrafficSample
from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    KeyRates,
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
    TablesOfHosts,
)
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.errors import ConflictError, DeviceError, NotKeptError, StoreError
from partitiond.core.hardware.host_state import HostStanding, HostState
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic
from partitiond.hosts.agents import Agents, ProxyRecord
from partitiond.hosts.proxies import SHARES_MARK, HostsProxies
from partitiond.ports.host import HostTable
from partitiond.store import open_store
from tests.controller.fakes import FakeProxy, FakeRunner
from tests.controller.runtime.test_endpoint import FullDisk
from tests.hosts.pipes import agent, piped
from tests.hosts.virtual_time import passes
from tests.machine import until

TABLE = RoutingTable(
    version=1,
    models=(ModelRoute("a", ModelAvailability.SERVING, "a"),),
    replicas=tuple(
        ReplicaRoute(name, "a", f"/{name}.sock", f"g-{name}", 4, 4096, 512, host=host)
        for name, host in (("a-1", "one"), ("a-2", "two"))
    ),
)


def table(version: int, *, without: int = 0, **changes: Any) -> RoutingTable:
    """A later table; its last replicas may be gone."""
    replicas = TABLE.replicas[: len(TABLE.replicas) - without]
    return dataclasses.replace(TABLE, version=version, replicas=replicas, **changes)


def has(table: RoutingTable) -> HostTable:
    return HostTable(ToldTables((table,)), "")


def routed(proxy: FakeProxy) -> list[str]:
    return [replica.replica_id for replica in proxy.table.replicas]


class Told(Agents):
    """What holds of the hosts is what a test says."""

    gone: frozenset[str] = frozenset()

    def lost(self) -> frozenset[str]:
        return self.gone


class Fleet:
    """The hosts "one" and "two", and perhaps one of an older release; each proxy runs."""

    def __init__(self, *others: str) -> None:
        self.there = [agent(name, FakeRunner()) for name in ("one", "two", *others)]
        for place, there in enumerate(self.there[:2], 1):
            there.peers_address = f"10.0.0.{place}:6387" if others else ""
        reached = [piped(there) for there in self.there[1:]]
        self.remote, self.pipe = reached[0]
        self.agents = Told([self.there[0], *(remote for remote, _ in reached)])
        self.one, self.two = (there.proxy for there in self.there[:2])
        self.store = open_store(":memory:")
        self.proxies = self.daemons()

    def daemons(self) -> HostsProxies:
        """What a daemon has of the proxies."""
        return HostsProxies(
            self.agents, store=self.store, ask_again_seconds=0.005, tell_seconds=60.0
        )

    async def begin(self, first: RoutingTable = TABLE) -> "Fleet":
        for there in self.there:
            await there.proxy.ensure_running()
        assert not await self.proxies.ensure_running()
        await self.proxies.publish(first)
        return self

    def problem(self) -> str:
        return self.proxies.known_tables()["two"].problem


async def test_each_is_told_of_its_own_replicas_and_asked_about_them() -> None:
    fleet = Fleet()
    assert await fleet.proxies.ensure_running()
    await fleet.begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    assert (routed(one), routed(two)) == (["a-1"], ["a-2"])
    one.counts, two.counts = {"a-1": 1}, {"a-1": 2}  # engines of one name on two hosts
    for host, counted in (("", one), ("one", one), ("two", two)):
        assert await proxies.in_flight(host) == counted.counts
    assert await proxies.in_flight("three") is None
    one.waiting, two.waiting = {"a": 1}, {"a": 2}
    one.idle_seconds, two.idle_seconds = {"a": 9.0}, {"a": 4.0}
    assert await proxies.traffic() == {"a": Traffic(3, 4.0)}
    one.uses, two.uses = {"k": KeyUse(1, 2, 3, 4)}, {"k": KeyUse(1, 1, 1, 1)}
    assert await proxies.key_use() == {"k": KeyUse(2, 3, 4, 5)}
    with pytest.raises(ConflictError) as older:
        await proxies.publish(table(0))
    assert older.value.facts == {"current": 1}
    name = "partitiond_proxy_requests_total"
    own = f'{name}{{host="one"}} 7.0\n'
    assert await proxies.metrics_text() == f'{own}{name}{{host="two"}} 7.0\n'
    fleet.pipe.cut()
    assert await proxies.metrics_text() == own


async def test_a_head_that_starts_again_leaves_each_proxy_its_table_until_it_has_one() -> None:
    """And asks what is in flight by that table, though nobody has looked at the hosts yet."""
    fleet = await Fleet().begin(table(57))
    one, two = fleet.one, fleet.two
    two.counts = {"a-2": 3}
    first = fleet.agents.need_record("two")
    first.proxy, first.judged = ProxyRecord(), HostStanding(HostState.SILENT, answers=False)
    proxies = fleet.daemons()
    assert not await proxies.ensure_running()
    exits = asyncio.ensure_future(proxies.wait_exit())
    assert await proxies.in_flight("two") == {"a-2": 3}
    await passes(1.0)  # the proxies are kept running meanwhile
    assert (two.table.version, routed(two)) == (57, ["a-2"])
    await proxies.publish(table(58, without=1))
    await until(lambda: routed(two) == [])
    one.die()
    assert await exits == 0


async def test_a_table_that_arrives_late_takes_no_newer_one_back() -> None:
    fleet = await Fleet().begin()
    proxies, two = fleet.proxies, fleet.two
    take, late = two.publish, asyncio.Event()

    async def slow(table: RoutingTable) -> None:
        if table.version == 2:
            await late.wait()
        await take(table)

    setattr(two, "publish", slow)  # noqa: B010 - types forbid it
    proxies._tell_seconds = 0.01
    await proxies.publish(table(2))
    newest = table(3, keys_required=True)
    proxies._table, proxies._parts = newest, TablesOfHosts(newest)
    host = fleet.agents.need_record("two")
    await proxies._tell(host)
    late.set()
    assert host.proxy.telling is not None
    await host.proxy.telling
    assert [table.version for table in two.tables] == [1, 3]


async def test_a_count_of_another_hosts_hung_proxy_is_not_waited_for() -> None:
    fleet = await Fleet().begin()
    setattr(fleet.two, "in_flight", asyncio.Event().wait)  # noqa: B010 - types forbid it
    fleet.proxies._tell_seconds = 0.01
    assert await fleet.proxies.in_flight("two") is None


async def test_a_proxy_on_a_silent_host_is_not_asked_and_gets_the_newest_table_later() -> None:
    fleet = await Fleet().begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    two.counts = {"a-2": 2}
    fleet.pipe.cut()
    assert await proxies.in_flight("two") is None
    assert await proxies.traffic() is None  # requests may wait there
    fleet.agents.gone = frozenset({"two"})
    assert await proxies.traffic() == {"a": Traffic(0, 0.0)}  # nobody waits for it any more
    fleet.agents.gone = frozenset()
    later = table(2, without=1, keys_required=True)
    await proxies.publish(later)
    assert (one.table.version, two.table.version) == (2, 1)
    told = proxies.known_tables()
    assert (told["one"].told.confirmed, told["two"].told.tables) == (later, (TABLE, later))
    assert "cut" in fleet.problem()
    fleet.pipe.mend()
    two.newest = 70  # of an earlier life of the store
    assert await proxies.in_flight("two") == {"a-2": 2}
    assert proxies.known_tables()["two"] == has(later)
    assert (two.table.version, routed(two)) == (71, [])
    count = len(two.tables)
    await proxies.in_flight("two")
    assert len(two.tables) == count


async def test_other_hosts_proxies_are_kept_running_and_told_beside_the_own_one() -> None:
    fleet = await Fleet().begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    two.die()
    two.refuse_start = DeviceError("its port is in use.")
    exits = asyncio.ensure_future(proxies.wait_exit())
    await until(lambda: "port" in fleet.problem())
    later = table(2)
    await proxies.publish(later)  # nothing holds up the own host's
    assert one.table.version == 2
    two.refuse_start = None
    await until(lambda: two.alive and two.table.version == 2)
    await until(lambda: proxies.known_tables()["two"] == has(later))
    fleet.pipe.cut()
    await until(lambda: bool(fleet.problem()))
    two.die()
    assert not exits.done()
    fleet.pipe.mend()
    await until(lambda: two.alive)
    one.die()
    assert await exits == 0


async def test_a_proxy_is_told_what_is_new_on_its_host_and_that_its_keys_are_the_newest() -> None:
    fleet = await Fleet().begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    gone = dataclasses.replace(TABLE, version=2, replicas=TABLE.replicas[1:])
    await proxies.publish(gone)
    assert (routed(one), len(two.tables)) == ([], 1)
    assert proxies.known_tables() == {"one": has(gone), "two": has(gone)}
    assert await proxies.in_flight("two") == {}
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


async def test_each_proxy_is_told_of_the_others_until_their_hosts_are_lost() -> None:
    """What a silent host said last goes on to count: the others may well reach its proxy."""
    fleet = await Fleet("old").begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    old = fleet.there[-1].proxy
    here, there = PeerRoute("one", "10.0.0.1:6387"), PeerRoute("two", "10.0.0.2:6387")
    assert (one.table.host, one.table.peers) == ("one", (here,))  # nobody looked yet
    assert (two.table.host, two.table.peers) == ("two", ())

    exits = asyncio.ensure_future(proxies.wait_exit())
    await asyncio.to_thread(fleet.remote.look)  # nothing else is new, and no version is
    await until(lambda: one.table.peers == two.table.peers == (here, there))
    assert (one.table.version, two.table.version) == (1, 1)
    assert (old.table.host, old.table.peers) == ("old", ())  # it serves its own

    fleet.pipe.cut()
    await proxies.publish(table(2))
    assert one.table.peers == (here, there)
    fleet.agents.gone = frozenset({"two"})
    await until(lambda: one.table.peers == (here,))
    assert one.table.version == 2
    fleet.agents.gone = frozenset()
    fleet.pipe.mend()
    await until(lambda: one.table.peers == two.table.peers == (here, there))
    count = len(one.tables)
    await passes(1.0)  # several looks, none of which has news
    assert len(one.tables) == count
    one.die()
    await exits


async def test_a_proxy_that_refuses_its_table_is_told_again_and_not_asked() -> None:
    """What it says would be of replicas that it may not know."""
    fleet = await Fleet().begin()
    proxies, two = fleet.proxies, fleet.two
    two.counts = {"a-2": 2}
    take = two.publish

    async def refuse(table: RoutingTable) -> None:
        raise DeviceError("its disk is full.")

    setattr(two, "publish", refuse)  # noqa: B010 - types forbid it
    refused = table(2, without=1)
    await proxies.publish(refused)
    assert proxies.known_tables()["two"] == HostTable(
        ToldTables((TABLE, refused)), "its disk is full."
    )
    assert await proxies.in_flight("two") is None
    setattr(two, "publish", take)  # noqa: B010
    await proxies.publish(table(3))  # as it was before
    assert two.table.version == 3
    assert await proxies.in_flight("two") == two.counts


async def test_a_table_that_hangs_at_a_host_is_one_that_its_proxy_may_have() -> None:
    """From the moment it is sent, and until the proxy answers to a later one."""
    fleet = await Fleet().begin()
    proxies, two = fleet.proxies, fleet.two
    take, fails = two.publish, asyncio.Event()

    async def hangs(table: RoutingTable) -> None:
        await fails.wait()
        raise DeviceError("it does not answer.")

    setattr(two, "publish", hangs)  # noqa: B010 - types forbid it
    proxies._tell_seconds = 0.01
    second, third = table(2, without=1), table(3)  # nothing new beside what it confirmed
    for newest in (second, third, third):
        await proxies.publish(newest)
        assert proxies.known_tables()["two"].told == ToldTables((TABLE, second))
    assert proxies.known_tables()["one"] == has(third)
    fails.set()
    await until(lambda: bool(fleet.problem()))
    await proxies.publish(third)
    assert proxies.known_tables()["two"].told == ToldTables((TABLE, second, third))
    setattr(two, "publish", take)  # noqa: B010
    await proxies.publish(third)
    assert proxies.known_tables()["two"] == has(third)


async def test_what_an_older_process_or_another_daemon_left_at_a_host_is_not_known() -> None:
    fleet = await Fleet().begin()
    proxies, two = fleet.proxies, fleet.two
    take, second = two.publish, table(2, without=1)

    async def refuse(table: RoutingTable) -> None:
        if table.version in (1, 71):
            raise DeviceError("it does not answer.")
        await take(table)

    setattr(two, "publish", refuse)  # noqa: B010 - types forbid it
    two.newest = 70  # another daemon told it so many
    await proxies.publish(second)
    assert proxies.known_tables()["two"].told == ToldTables((None, second))
    setattr(two, "publish", take)  # noqa: B010
    await proxies.publish(second)
    assert proxies.known_tables()["two"] == has(second)
    two.newest = 0
    setattr(two, "publish", refuse)  # noqa: B010
    proxies._table, proxies._parts = TABLE, TablesOfHosts(TABLE)
    two.die()
    exits = asyncio.ensure_future(proxies.wait_exit())
    await until(lambda: bool(fleet.problem()))
    assert proxies.known_tables()["two"].told == ToldTables((None, TABLE))
    fleet.one.die()
    await exits


async def test_what_the_own_proxy_does_not_answer_is_told_of_it() -> None:
    fleet = await Fleet().begin()
    fleet.one.problem = "The proxy does not answer."
    assert fleet.proxies.problem == fleet.one.problem
    fleet.one.die()
    assert await fleet.proxies.ensure_running()
    assert fleet.proxies.known_tables()["one"].told == ToldTables()


async def test_a_proxy_that_cannot_store_its_table_has_it_and_is_told_again() -> None:
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    one.proxy, two.proxy = FullDisk(), FullDisk()
    together = HostsProxies(Agents([one, piped(two)[0]]))
    for one_proxy in (one.proxy, two.proxy):
        await one_proxy.ensure_running()
    one.proxy.full = two.proxy.full = True
    with pytest.raises(NotKeptError):
        await together.publish(TABLE)
    await until(lambda: together.known_tables() == {"one": has(TABLE), "two": has(TABLE)})
    assert await together.in_flight("two") == {}
    one.proxy.full = two.proxy.full = False
    for told in (2, 2):
        await together.publish(dataclasses.replace(TABLE))
        assert len(two.proxy.tables) == told


async def test_counts_of_all_proxies_are_added_up_and_each_ones_are_there() -> None:
    def counted(epoch: str, arrived: int) -> TrafficSample:
        return TrafficSample(0.0, epoch, {"a": ModelCount(arrived=arrived)})

    fleet = await Fleet().begin()
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    one.sampled, two.sampled = counted("1", 5), counted("2", 50)
    assert await proxies.sample() is not None
    one.sampled, two.sampled = counted("1", 7), counted("2", 53)
    found = await proxies.sample()
    assert found is not None
    assert found.models["a"].arrived == 5
    assert found.hosts == {"one": one.sampled, "two": two.sampled}
    assert proxies.unreached() == {"one": (), "two": ()}
    peers = {"three": True, "two": False, "four": False}
    one.sampled = dataclasses.replace(one.sampled, peers=peers)
    await proxies.sample()
    assert proxies.unreached() == {"one": ("four", "two"), "two": ()}
    fleet.pipe.cut()
    silent = await proxies.sample()
    assert silent is not None
    assert silent.models["a"].arrived == 5
    assert silent.hosts.keys() == proxies.unreached().keys() == {"one"}


def budget(proxy: FakeProxy) -> float:
    """What a proxy may use of the key's budget of 1000 tokens."""
    shares = proxy.table.shares
    return next((row.budget for row in shares.rows), 1000 * shares.part)


def count(proxy: FakeProxy, used: float, refused: int = 0) -> None:
    """Let a proxy say what it used of the budget, by the shares that it has."""
    key = KeyCount(used, used, refused, 100.0 * refused, 0.0, 0.0, used)
    proxy.sampled = TrafficSample(0.0, keys={"k": key}, shares_number=proxy.table.shares.number)


async def test_keys_are_divided_by_what_the_proxies_count_also_by_the_next_head() -> None:
    """A host that is cut off keeps its share, which the store says to a head that starts again."""
    keys = (
        KeyRoute(
            "k", "0" * 64, rates=KeyRates(token_budget=1000, budget_period=BudgetPeriod.NEVER)
        ),
    )
    fleet = Fleet("old")
    await asyncio.to_thread(fleet.remote.look)
    await fleet.begin(table(1, keys=keys))
    proxies, one, two = fleet.proxies, fleet.one, fleet.two
    old = fleet.there[-1].proxy
    assert (budget(one), budget(two)) == (500, 500)
    assert old.table.shares.number == 0, "it serves its own clients by itself"
    for _ in range(2):
        count(one, 0)
        count(two, 480, refused=20)
        await proxies.sample()
        await passes(0.1)
        await until(lambda: two.table.shares == proxies._shares.of("two"))
    assert budget(one) + budget(two) == pytest.approx(1000)
    assert budget(two) > 700
    assert (one.table.version, two.table.version) == (1, 1)
    fleet.pipe.cut()
    fleet.proxies = proxies = fleet.daemons()
    count(one, 200, refused=20)
    await proxies.publish(table(2, keys=keys))
    before = budget(one)
    for _ in range(3):
        count(one, 200, refused=20)
        await proxies.sample()
    assert budget(one) == before == pytest.approx(1000 - budget(two))


async def test_shares_that_cannot_be_stored_are_told_and_stored_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet("old")
    await asyncio.to_thread(fleet.remote.look)
    keys = (KeyRoute("k", "0" * 64, rates=KeyRates(requests_per_minute=60)),)
    await fleet.begin(table(1, keys=keys))

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.store, "set_mark", refuse)
        for asks in (0, 90):
            count(fleet.one, 0, refused=asks)
            count(fleet.two, 0)
            await fleet.proxies.sample()
            await passes(2.0)
        await until(lambda: fleet.two.table.shares.rows != ())
    assert "k" not in fleet.store.marks(SHARES_MARK)
    await fleet.proxies.sample()
    assert "k" in fleet.store.marks(SHARES_MARK)
