"""A long beginning of a prompt finds its replica from any host."""

import httpx

from partitiond.core.dispatch.affinity import prefix_digests
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.peer_server.server import counts_of
from partitiond.proxy.peers.messages import News, encode
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import ScriptedEngine
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

LONG = "a" * 4000


async def until_told(hosts: list[Host]) -> None:
    """Wait until each host was told what was placed on another one."""
    for one in hosts:
        await one.proxy.until(lambda one=one: told_count(one) > 0)  # type: ignore[misc]


def told_count(host: Host) -> int:
    return len(host.proxy.state.models["m"].affinity._peers)


async def replicas(make: Make, count: int) -> tuple[list[ScriptedEngine], RoutingTable]:
    engines = [await make.engine(name=f"e{n}") for n in range(count)]
    return engines, table(*(replica(engine, f"m-{n}") for n, engine in enumerate(engines)))


def counts(engines: list[ScriptedEngine]) -> list[int]:
    return [len(engine.received) for engine in engines]


async def test_what_began_at_one_host_finds_its_replica_from_each(make: Make) -> None:
    engines, routes = await replicas(make, 3)
    hosts = a, b, c = await make.hosts(routes, {"a": ["m-0"], "b": ["m-1"], "c": ["m-2"]})
    assert (await a.proxy.complete(prompt=LONG)).status_code == 200
    assert counts(engines) == [1, 0, 0]
    await until_told([b, c])
    for host in (b, c, b):
        assert (await host.proxy.complete(prompt=LONG + "b")).status_code == 200
    assert counts(engines) == [4, 0, 0]
    assert (await b.proxy.complete(prompt="another")).status_code == 200
    assert counts(engines) == [4, 1, 0], "what is new stays at home"
    await until_idle(hosts)


async def test_hosts_without_replicas_find_it_among_those_of_one_owner(make: Make) -> None:
    engines, routes = await replicas(make, 4)
    owners = {"a": [], "b": ["m-0", "m-1", "m-2", "m-3"], "c": []}
    hosts = a, _, c = await make.hosts(routes, owners)
    await a.proxy.complete(prompt=LONG)
    where = counts(engines)
    await until_told([a, c])
    for host in (c, a, c, a, c):
        await host.proxy.complete(prompt=LONG + "b")
    assert counts(engines) == [6 * there for there in where]
    await until_idle(hosts)


def tell(host: Host, lately: dict[str, dict[str, bytes]]) -> None:
    """Tell all who listen."""
    told = encode(News(counts_of(host.proxy.state), lately))
    for one in host.server.connections:
        if one.listens:
            one.tell(told + b"\n")


async def test_a_peer_attracts_requests_to_its_own_replicas_alone(make: Make) -> None:
    engines, routes = await replicas(make, 2)
    a, b, c = await make.hosts(routes, {"a": ["m-0"], "b": ["m-1"], "c": []})
    prompts = ["a" * 900, "b" * 900]
    asked = [httpx.Request("POST", "http://a", json={"model": "m", "prompt": p}) for p in prompts]
    (ann,), (bob,) = (prefix_digests(request.content) for request in asked)
    tell(c, {"m": {"m-1": ann, "": ann}, "other": {"m-1": ann}})
    tell(b, {"m": {"m-0": ann, "m-1": bob}})
    await until_told([a])
    for prompt, expected in zip(prompts, ([1, 0], [1, 1]), strict=True):
        assert (await a.proxy.complete(prompt=prompt)).status_code == 200
        assert counts(engines) == expected
