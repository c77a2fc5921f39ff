"""A session, or a long beginning of a prompt, finds its replica from any host."""

from typing import Any

import pytest

from partitiond.core.dispatch.affinity import DIGEST_BYTES, session_digest
from partitiond.core.dispatch.host_affinity import MOST_TOLD
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.peer_server.server import counts_of
from partitiond.proxy.peers.messages import LatelyPlaced, News, encode
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import LyingEntry, opened
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import ScriptedEngine
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

LONG = "a" * 4000
Turn = dict[str, Any]
TURNS = pytest.mark.parametrize(
    ("first", "later"),
    [
        pytest.param({"user": "ann"}, {"user": "ann", "prompt": "b"}, id="session"),
        pytest.param({"prompt": LONG}, {"prompt": LONG + "b"}, id="prefix"),
    ],
)


async def until_told(hosts: list[Host]) -> None:
    """Wait until each host was told what was placed on another one."""
    for one in hosts:
        await one.proxy.until(lambda one=one: told_count(one) > 0)  # type: ignore[misc]


def told_count(host: Host) -> int:
    return host.proxy.state.models["m"].affinity.told_count()


async def replicas(make: Make, count: int) -> tuple[list[ScriptedEngine], RoutingTable]:
    engines = [await make.engine(name=f"e{n}") for n in range(count)]
    return engines, table(*(replica(engine, f"m-{n}") for n, engine in enumerate(engines)))


def counts(engines: list[ScriptedEngine]) -> list[int]:
    return [len(engine.received) for engine in engines]


@TURNS
async def test_what_began_at_one_host_finds_its_replica_from_each(
    make: Make, first: Turn, later: Turn
) -> None:
    engines, routes = await replicas(make, 3)
    hosts = a, b, c = await make.hosts(routes, {"a": ["m-0"], "b": ["m-1"], "c": ["m-2"]})
    assert (await a.proxy.complete(**first)).status_code == 200
    assert counts(engines) == [1, 0, 0]
    await until_told([b, c])
    for host in (b, c, b):
        assert (await host.proxy.complete(**later)).status_code == 200
    assert counts(engines) == [4, 0, 0]
    assert (await b.proxy.complete(user="bob", prompt="another")).status_code == 200
    assert counts(engines) == [4, 1, 0], "what is new stays at home"
    await until_idle(hosts)


@TURNS
async def test_hosts_without_replicas_find_it_among_those_of_one_owner(
    make: Make, first: Turn, later: Turn
) -> None:
    engines, routes = await replicas(make, 4)
    owners = {"a": [], "b": ["m-0", "m-1", "m-2", "m-3"], "c": []}
    hosts = a, _, c = await make.hosts(routes, owners)
    await a.proxy.complete(**first)
    where = counts(engines)
    await until_told([a, c])
    for host in (c, a, c, a, c):
        await host.proxy.complete(**later)
    assert counts(engines) == [6 * there for there in where]
    await until_idle(hosts)


def tell(host: Host, *lately: LatelyPlaced) -> None:
    """Tell all who listen."""
    told = encode(News(counts_of(host.proxy.state, 0.0), list(lately)))
    for one in host.server.connections:
        if one.listens:
            one.tell(told + b"\n")


async def test_a_peer_attracts_requests_to_its_own_replicas_alone(make: Make) -> None:
    engines, routes = await replicas(make, 2)
    a, b, c = await make.hosts(routes, {"a": ["m-0"], "b": ["m-1"], "c": []})
    ann, bob = (session_digest(f"\0{name}") for name in ("ann", "bob"))
    tell(
        c,
        LatelyPlaced("m", {"m-1": (ann, b""), "": (ann, b"")}),
        LatelyPlaced("other", {"m-1": (ann, b"")}),
    )
    tell(b, LatelyPlaced("m", {"m-0": (ann, b""), "m-1": (bob, b"")}))
    await until_told([a])
    assert (await a.proxy.complete(user="ann")).status_code == 200
    assert counts(engines) == [1, 0]
    assert (await a.proxy.complete(user="bob")).status_code == 200
    assert counts(engines) == [1, 1]


@pytest.mark.parametrize("told", [b"x", bytes((MOST_TOLD + 1) * DIGEST_BYTES)])
async def test_who_tells_no_digests_or_too_many_is_left(make: Make, told: bytes) -> None:
    a, b, _ = await make.pair()
    tell(b, LatelyPlaced("m", {"m-1": (told, b"")}))
    await a.proxy.until(lambda: a.heard() == [])
    await a.until_it_hears(1)
    assert told_count(a) == 0
    assert (await a.proxy.complete()).status_code == 200


@pytest.mark.parametrize("wrong", [{"session": b"x"}, {"blocks": b"x"}, {"blocks": bytes(17 * 12)}])
async def test_an_entry_that_sends_no_digests_is_left(make: Make, wrong: dict[str, Any]) -> None:
    _, b, engine = await make.pair()
    caller = await LyingEntry.call(b)
    caller.writer.write(opened(**wrong))
    await caller.ended()
    assert engine.received == []
    await b.proxy.until(b.is_idle)
