"""A cluster carries messages the same with Ray and without."""

import asyncio
import dataclasses
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.cluster.ray_node import RayNode
from partitiond.cluster.socket_cluster import SocketCluster
from partitiond.core.errors import HostSilentError
from partitiond.ports.cluster import Cluster
from tests.cluster.ray_fixtures import RayHosts, answers, make_hosts, short_folder

Reached = tuple[Cluster, RayHosts]


@pytest.fixture
async def reached() -> AsyncIterator[Reached]:
    """A cluster of three hosts (head, a, b) that answer, and the hosts.

    `tests.cluster.test_ray_cluster` has the same tests with real Ray.
    """
    with short_folder() as folder:
        hosts = make_hosts(Path("/no/ray"), folder, ("head", "a", "b"))
        sockets = SocketCluster(folder / "agents")
        hosts.nodes = [with_socket(hosts, sockets, place) for place in range(3)]
        try:
            for node in hosts.nodes:
                hosts.start_agent(node)
            for node in hosts.nodes:
                await answers(sockets, node.host)
            yield sockets, hosts
        finally:
            hosts.end_agents()


def with_socket(hosts: RayHosts, sockets: SocketCluster, place: int) -> RayNode:
    node = hosts.nodes[place]
    path = sockets.socket(node.host)
    path.parent.mkdir(exist_ok=True)
    return dataclasses.replace(node, agent_socket=path)


async def test_the_hosts_that_joined_are_members(reached: Reached) -> None:
    cluster, _ = reached
    found = await cluster.members()
    assert sorted((member.host, member.problem) for member in found) == [
        ("a", ""), ("b", ""), ("head", ""),
    ]  # fmt: skip


async def test_a_message_is_answered(reached: Reached) -> None:
    cluster, _ = reached
    body = bytes(range(256)) * 2000
    assert await cluster.line("a").call(body) == b"a:" + body


async def test_messages_to_one_host_go_side_by_side(reached: Reached) -> None:
    cluster, _ = reached
    line = cluster.line("a")
    slow = asyncio.ensure_future(line.call(b"after 3"))
    quick = [line.call(b"quick") for _ in range(3)]
    assert await asyncio.gather(*quick, slow) == [b"a:quick"] * 3 + [b"a:after 3"]


async def test_a_host_that_never_joined_is_silent(reached: Reached) -> None:
    cluster, _ = reached
    with pytest.raises(HostSilentError, match="nobody") as silent:
        await cluster.line("nobody").call(b"")
    assert silent.value.facts["host"] == "nobody"


@pytest.mark.full
async def test_a_stopped_host_is_silent_and_the_others_answer(reached: Reached) -> None:
    cluster, hosts = reached
    _, a, _ = hosts.nodes
    hosts.signal_agent(a, signal.SIGSTOP)
    try:
        waiting = asyncio.ensure_future(cluster.line("a").call(b"late"))
        assert await cluster.line("b").call(b"now") == b"b:now"
        with pytest.raises(HostSilentError):
            await waiting
    finally:
        hosts.signal_agent(a, signal.SIGCONT)
    await answers(cluster, "a")


async def test_a_host_whose_agent_ended_is_silent_until_it_is_back(reached: Reached) -> None:
    cluster, hosts = reached
    _, _, b = hosts.nodes
    hosts.end_agent(b)
    with pytest.raises(HostSilentError):
        await cluster.line("b").call(b"")
    hosts.start_agent(b)
    await answers(cluster, "b")
