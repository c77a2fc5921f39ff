"""Hosts that join are counted with, are known to a restarted head, and forgotten if asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from partitiond.core.errors import ConflictError, NotFoundError, SilentError
from partitiond.core.hardware.host_state import HostLimits, HostState, HostView
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.head import HeadRecord, load_head, save_head, start_head, take_over
from partitiond.hosts.membership import Membership
from partitiond.hosts.together import Hosts
from partitiond.ports.cluster import ClusterMember
from partitiond.store import open_store
from tests.controller.fakes import FakeClock, FakeRunner
from tests.hosts.pipes import FakeAgent, Pipe, agent
from tests.proxy.virtual import real_time

pytestmark = real_time

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
FINE, REFUSED = HostState.FINE, HostState.REFUSED


class PipedCluster:
    """Hosts of this process, as a cluster."""

    def __init__(self) -> None:
        self.pipes: dict[str, Pipe] = {}
        self.listed: list[ClusterMember] = []
        self.problem = ""

    def joins(self, name: str, host_id: str = "id") -> FakeAgent:
        there = agent(name, FakeRunner(), host_id=host_id)
        self.pipes[name] = Pipe(HostServer(there))
        self.listed = [m for m in self.listed if m.host != name]
        self.listed.append(ClusterMember(name, f"address-of-{name}"))
        return there

    def leaves(self, name: str) -> None:
        self.listed = [m for m in self.listed if m.host != name]
        self.pipes[name].cut()

    async def members(self) -> Sequence[ClusterMember]:
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
        session = start_head(lambda _: None, self.store, self.clock.utc_iso(), is_head=True)
        self.membership = Membership(
            self.hosts, self.cluster, self.store, self.clock, head=session, silent_seconds=0.0
        )

    async def look(self) -> None:
        await self.membership.look()
        await asyncio.to_thread(self.hosts.devices.discover)
        await self.hosts.engines.returned()
        await self.membership.look()

    async def joined(self, name: str = "two", host_id: str = "id") -> FakeAgent:
        there = self.cluster.joins(name, host_id)
        await self.look()
        return there

    async def restart(self) -> None:
        await self.membership.close()
        self.start()

    def states(self) -> dict[str, HostState]:
        return {view.name: view.state for view in self.membership.views()}

    def two(self) -> HostView:
        _, two = self.membership.views()
        assert two.name == "two"
        return two

    def record(self) -> HeadRecord:
        found = load_head(self.store)
        assert found is not None
        return found

    async def loses(self, name: str) -> None:
        self.cluster.leaves(name)
        for seconds in (LIMITS.silent_seconds, LIMITS.lost_seconds, 1.0):
            for _ in range(int(seconds / 10) + 1):  # looks are made all the time
                self.clock.now += 10.0
                await self.look()
        assert self.states()[name] is HostState.LOST

    async def obeys(self, name: str, epoch: int) -> None:
        """Another head takes over this host."""
        await self.asks(name, HeadSession("other", epoch, 1, "s"))

    async def asks(self, name: str, head: HeadSession) -> None:
        there = RemoteHost(name, self.cluster.pipes[name], head=head)
        await there.engines.find()
        await there.close()


@pytest.fixture
async def head() -> AsyncIterator[Head]:
    made = Head()
    await made.look()
    yield made
    await made.membership.close()
    made.store.close()


async def test_a_host_that_joins_is_counted_with_and_known_to_a_restarted_head(head: Head) -> None:
    """Which tells at once where its proxy is, though it is silent."""
    assert head.states() == {"one": FINE}
    head.cluster.joins("two").peers_address = "10.0.0.2:6387"
    await head.look()
    one, two = head.membership.views()
    assert (one.is_head, two.is_head) == (True, False)
    assert (two.state, two.address, two.host_id) == (FINE, "address-of-two", "id")
    found = await asyncio.to_thread(head.hosts.devices.discover)
    assert {device.id for device in found} >= {"GPU-two", "cpu-two"}
    head.cluster.leaves("two")
    await head.restart()
    (_, facts) = head.hosts.facts()
    assert facts.peers_address == "10.0.0.2:6387"
    await head.look()
    assert (head.two().host_id, head.two().address) == ("id", "address-of-two")
    assert head.two().state is not FINE
    assert head.two().last_word
    head.cluster.pipes["two"].mend()
    await head.look()
    await head.look()
    assert head.two().state is FINE


async def test_a_host_that_never_answered_and_left_is_not_known(head: Head) -> None:
    head.cluster.joins("two")
    head.cluster.pipes["two"].cut()
    await head.look()
    assert "two" in head.states()
    head.cluster.leaves("two")
    await head.look()
    assert head.states() == {"one": FINE}


async def test_who_is_there_stays_while_the_cluster_cannot_be_asked(head: Head) -> None:
    await head.joined()
    for problem in ("the bridge is away.", ""):
        head.cluster.problem = problem
        await head.look()
        assert head.membership.problem == problem
        assert head.states() == {"one": FINE, "two": FINE}


async def test_another_host_of_a_known_name_is_refused_until_the_first_is_forgotten(
    head: Head,
) -> None:
    await head.joined()
    head.cluster.joins("two", host_id="another")
    await head.restart()
    await head.look()
    assert head.two().state is REFUSED
    assert "partitiond hosts --forget two" in head.two().reason
    head.membership.forget("two")
    assert head.states() == {"one": FINE}
    await head.look()
    assert head.two().host_id == "another"


async def test_only_a_lost_host_is_forgotten_and_joins_anew(head: Head) -> None:
    await head.joined()
    for name, error in (("two", ConflictError), ("three", NotFoundError), ("one", ConflictError)):
        with pytest.raises(error):
            head.membership.forget(name)
    await head.loses("two")
    head.membership.forget("two")
    await head.restart()
    await head.look()
    assert head.states() == {"one": FINE}
    await head.joined()
    assert head.two().state is FINE


async def test_two_hosts_of_one_name_are_told_apart_by_the_cluster(head: Head) -> None:
    await head.joined()
    head.cluster.listed.append(ClusterMember("two", "elsewhere", "the name is taken"))
    await head.look()
    shown = [(view.name, view.state, view.address) for view in head.membership.views()]
    assert ("two", FINE, "address-of-two") in shown
    assert ("two", REFUSED, "elsewhere") in shown


async def test_a_record_that_cannot_be_read_is_of_a_host_that_joins_anew(head: Head) -> None:
    head.cluster.joins("two")
    head.store.set_mark("host", "two", "{")
    await head.restart()
    await head.look()
    assert head.two().host_id == "id"
    assert "id" in head.store.marks("host")["two"]


@pytest.mark.parametrize("resolved", ["taken over", "forgotten", "back"])
async def test_a_head_whose_host_obeys_a_higher_epoch_is_overtaken_until_it_is_resolved(
    head: Head, resolved: str
) -> None:
    await head.joined()
    await head.obeys("two", 2)
    await head.look()
    assert head.states() == {"one": REFUSED, "two": REFUSED}
    assert "with epoch 2" in head.membership.views()[0].reason
    assert "partitiond hosts --take-over" in head.two().reason
    assert (head.record().epoch, head.record().seen_epoch) == (1, 2)
    head.cluster.pipes["two"].cut()  # nobody tells it again
    await head.restart()
    await head.look()
    assert head.states()["one"] is REFUSED
    if resolved == "taken over":
        assert take_over(head.store, "now").epoch == 3
        head.cluster.pipes["two"].mend()
    elif resolved == "forgotten":
        await head.loses("two")
        head.membership.forget("two")
    else:
        head.cluster.joins("two")  # it left the other one, and obeys nobody
    await head.restart()
    await head.look()
    await head.look()
    expected = {"one": FINE} if resolved == "forgotten" else {"one": FINE, "two": FINE}
    assert head.states() == expected


@pytest.mark.parametrize("resolved", ["taken over", "later"])
async def test_a_head_that_restores_its_own_backup_is_overtaken_by_its_later_start(
    head: Head, resolved: str
) -> None:
    await head.joined()
    backup = head.record()
    for _ in range(3):
        await head.restart()
        await head.look()
    save_head(head.store, backup, "now")
    await head.restart()
    await head.look()
    assert head.states() == {"one": REFUSED, "two": REFUSED}
    own = head.membership.views()[0].reason
    assert "a later start of this control plane" in own
    assert "partitiond hosts --take-over" in own
    if resolved == "taken over":
        take_over(head.store, "now")
        await head.restart()
    else:
        for _ in range(3):  # it is no other head: its starts come above those that were
            await head.restart()
    await head.look()
    await head.look()
    assert head.states() == {"one": FINE, "two": FINE}


async def test_a_host_that_was_never_ours_overtakes_no_head(head: Head) -> None:
    head.cluster.joins("two")
    await head.obeys("two", 7)  # it comes from another fleet
    await head.look()
    assert head.states() == {"one": FINE, "two": REFUSED}
    assert head.record().seen_epoch == 7


async def test_another_machine_under_the_name_of_a_host_overtakes_no_head(head: Head) -> None:
    await head.joined()
    head.cluster.joins("two", "another")
    await head.obeys("two", 7)
    await head.restart()
    await head.look()
    assert head.states() == {"one": FINE, "two": REFUSED}
