"""Hosts that join are counted with, are known to a restarted head, and forgotten if asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from partitiond.core.errors import ConflictError, NotFoundError, SilentError
from partitiond.core.hardware.host_state import HostLimits, HostState
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.head import load_head, start_head, take_over
from partitiond.hosts.membership import MARK, SAVED_MOST, KnownHost, Membership
from partitiond.hosts.together import Hosts
from partitiond.ports.cluster import ClusterMember
from partitiond.store import open_store
from tests.controller.fakes import FakeClock, FakeRunner
from tests.hosts.pipes import FakeAgent, Pipe, agent, devices_of

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)


class PipedCluster:
    """Hosts of this process, as a cluster."""

    def __init__(self) -> None:
        self.pipes: dict[str, Pipe] = {}
        self.listed: list[ClusterMember] = []
        self.problem = ""

    def joins(self, name: str, host_id: str = "id", *, reads_ids: bool = True) -> FakeAgent:
        there = agent(name, FakeRunner(), host_id=host_id)
        self.pipes[name] = Pipe(HostServer(there), reads_ids=reads_ids)
        self.listed = [m for m in self.listed if m.host != name]
        self.listed.append(ClusterMember(name, f"address-of-{name}"))
        return there

    def leaves(self, name: str) -> None:
        self.listed = [m for m in self.listed if m.host != name]
        self.pipes[name].cut()

    def members(self) -> Sequence[ClusterMember]:
        if self.problem:
            raise SilentError(self.problem)
        return tuple(self.listed)

    def line(self, host: str) -> Pipe:
        return self.pipes[host]


class Head:
    """A head with the host "one"; a restart keeps its store, its cluster and its clock."""

    def __init__(self) -> None:
        self.store, self.cluster, self.clock = open_store(":memory:"), PipedCluster(), FakeClock()
        self.clock.now = time.monotonic()  # hosts tell when they were heard by the real one
        self.start()

    def start(self) -> None:
        own = agent("one", FakeRunner())
        self.hosts = Hosts([own], late_seconds=60.0, limits=LIMITS, clock=self.clock)
        session = start_head(self.store, self.clock.utc_iso())
        self.membership = Membership(
            self.hosts, self.cluster, self.store, self.clock, head=session, silent_seconds=0.0
        )

    async def look(self) -> None:
        await self.membership.look()
        await asyncio.to_thread(self.hosts.devices.discover)
        await self.hosts.engines.returned()
        await self.membership.look()

    async def restart(self) -> None:
        await self.membership.close()
        self.start()

    def states(self) -> dict[str, HostState]:
        return {view.name: view.state for view in self.membership.views()}

    async def loses(self, name: str) -> None:
        self.cluster.leaves(name)
        for seconds in (LIMITS.silent_seconds, LIMITS.lost_seconds, 1.0):
            for _ in range(int(seconds / 10) + 1):  # looks are made all the time
                self.clock.now += 10.0
                await self.look()
        assert self.states()[name] is HostState.LOST


@pytest.fixture
async def head() -> AsyncIterator[Head]:
    made = Head()
    yield made
    await made.membership.close()
    made.store.close()


async def test_many_hosts_that_join_at_once_are_written_some_at_each_look(head: Head) -> None:
    names = [f"h{number:02d}" for number in range(2 * SAVED_MOST + 1)]
    for name in names:
        head.cluster.joins(name)
    await head.membership.look()
    await asyncio.to_thread(head.hosts.devices.discover)
    written = []
    for _ in range(4):
        await head.membership.look()
        written.append(len(head.store.marks(MARK)))
    assert written == [SAVED_MOST, 2 * SAVED_MOST, len(names), len(names)]
    await head.restart()
    assert head.states().keys() == {"one", *names}


async def test_a_host_that_joins_is_counted_with_and_known_by_its_address(head: Head) -> None:
    await head.look()
    assert head.states() == {"one": HostState.FINE}
    head.cluster.joins("two")
    await head.look()
    one, two = head.membership.views()
    assert (one.is_head, two.is_head) == (True, False)
    assert (two.state, two.address, two.host_id) == (HostState.FINE, "address-of-two", "id")
    found = await asyncio.to_thread(head.hosts.devices.discover)
    assert {device.id for device in found} >= {device.id for device in devices_of("two")}


async def test_a_restarted_head_tells_at_once_where_the_proxies_of_its_hosts_are(
    head: Head,
) -> None:
    head.cluster.joins("two").peers_address = "10.0.0.2:6387"
    await head.look()
    head.cluster.leaves("two")
    await head.restart()
    (_, two) = head.hosts.facts()
    assert two.peers_address == "10.0.0.2:6387"


async def test_a_restarted_head_knows_a_host_that_is_silent(head: Head) -> None:
    head.cluster.joins("two")
    await head.look()
    head.cluster.leaves("two")
    await head.restart()
    await head.look()
    (_, two) = head.membership.views()
    assert (two.name, two.host_id, two.address) == ("two", "id", "address-of-two")
    assert two.state is not HostState.FINE
    assert two.last_word
    head.cluster.pipes["two"].mend()
    await head.look()
    await head.look()
    assert head.states()["two"] is HostState.FINE


async def test_a_host_that_never_answered_and_left_is_not_known(head: Head) -> None:
    head.cluster.joins("two")
    head.cluster.pipes["two"].cut()
    await head.look()
    assert "two" in head.states()
    head.cluster.leaves("two")
    await head.look()
    assert head.states() == {"one": HostState.FINE}


async def test_who_is_there_stays_while_the_cluster_cannot_be_asked(head: Head) -> None:
    head.cluster.joins("two")
    await head.look()
    head.cluster.problem = "the bridge is away."
    await head.look()
    assert head.membership.problem == "the bridge is away."
    assert head.states() == dict.fromkeys(("one", "two"), HostState.FINE)
    head.cluster.problem = ""
    await head.look()
    assert head.membership.problem == ""


async def test_another_host_of_a_known_name_is_refused_until_the_first_is_forgotten(
    head: Head,
) -> None:
    head.cluster.joins("two")
    await head.look()
    head.cluster.joins("two", host_id="another")
    await head.restart()
    await head.look()
    (_, two) = head.membership.views()
    assert two.state is HostState.REFUSED
    assert "partitiond hosts forget two" in two.reason
    head.membership.forget("two")
    assert head.states() == {"one": HostState.FINE}
    await head.look()
    assert head.membership.views()[1].host_id == "another"


async def test_only_a_lost_host_is_forgotten_and_joins_anew(head: Head) -> None:
    head.cluster.joins("two")
    await head.look()
    with pytest.raises(ConflictError, match="answers"):
        head.membership.forget("two")
    with pytest.raises(NotFoundError):
        head.membership.forget("three")
    with pytest.raises(ConflictError):
        head.membership.forget("one")
    await head.loses("two")
    head.membership.forget("two")
    await head.restart()
    await head.look()
    assert head.states() == {"one": HostState.FINE}
    head.cluster.joins("two")
    await head.look()
    assert head.states()["two"] is HostState.FINE


async def test_two_hosts_of_one_name_are_told_apart_by_the_cluster(head: Head) -> None:
    head.cluster.joins("two")
    refused = ClusterMember("two", "elsewhere", "the name is taken")
    head.cluster.listed.append(refused)
    await head.look()
    shown = [(view.name, view.state, view.address) for view in head.membership.views()]
    assert ("two", HostState.FINE, "address-of-two") in shown
    assert ("two", HostState.REFUSED, "elsewhere") in shown


async def test_a_record_that_cannot_be_read_is_of_a_host_that_joins_anew(head: Head) -> None:
    head.cluster.joins("two")
    head.store.set_mark("host", "two", "{")
    await head.restart()
    await head.look()
    assert head.membership.views()[1].host_id == "id"
    assert "id" in head.store.marks("host")["two"]
    assert KnownHost() == KnownHost(host_id="")
    assert load_head(head.store) is not None


async def test_a_host_that_obeys_another_head_is_refused_and_its_epoch_kept(head: Head) -> None:
    head.cluster.joins("two")
    await head.look()
    other = HeadSession("other", 2, 1, "session")
    elsewhere = RemoteHost("two", head.cluster.pipes["two"], head=other)
    await elsewhere.engines.find()
    await head.look()
    (_, two) = head.membership.views()
    assert two.state is HostState.REFUSED
    assert "partitiond head take-over" in two.reason
    record = load_head(head.store)
    assert record is not None
    assert (record.epoch, record.seen_epoch) == (1, 2)
    assert take_over(head.store, "now").epoch == 3
    await head.restart()
    await head.look()
    await head.look()
    assert head.states()["two"] is HostState.FINE
    await elsewhere.close()


async def obeys(head: Head, name: str, epoch: int) -> None:
    """Another head takes over this host."""
    there = RemoteHost(name, head.cluster.pipes[name], head=HeadSession("other", epoch, 1, "s"))
    await there.engines.find()
    await there.close()


@pytest.mark.parametrize("resolved", ["taken over", "forgotten", "back"])
async def test_a_head_whose_host_obeys_a_higher_epoch_is_overtaken_until_it_is_resolved(
    head: Head, resolved: str
) -> None:
    head.cluster.joins("two")
    await head.look()
    await obeys(head, "two", 2)
    await head.look()
    assert head.states() == dict.fromkeys(("one", "two"), HostState.REFUSED)
    assert "with epoch 2" in head.membership.views()[0].reason
    head.cluster.pipes["two"].cut()  # nobody tells it again
    await head.restart()
    await head.look()
    assert head.states()["one"] is HostState.REFUSED
    if resolved == "taken over":
        take_over(head.store, "now")
        await head.restart()
    elif resolved == "forgotten":
        await head.loses("two")
        head.membership.forget("two")
    else:
        head.cluster.joins("two")  # it left the other one, and obeys nobody
        await head.restart()
        await head.look()
    await head.look()
    assert head.states()["one"] is HostState.FINE


async def test_a_host_that_was_never_ours_overtakes_no_head(head: Head) -> None:
    head.cluster.joins("two")
    await obeys(head, "two", 7)  # it comes from another fleet
    await head.look()
    assert head.states() == {"one": HostState.FINE, "two": HostState.REFUSED}
    record = load_head(head.store)
    assert record is not None
    assert record.seen_epoch == 7


async def test_another_machine_under_the_name_of_a_host_overtakes_no_head(head: Head) -> None:
    head.cluster.joins("two")
    await head.look()
    for reads_ids in (True, False):
        head.cluster.joins("two", "another", reads_ids=reads_ids)
        await obeys(head, "two", 7)
        await head.restart()
        await head.look()
        assert head.states() == {"one": HostState.FINE, "two": HostState.REFUSED}
