"""Real Ray on this machine, three hosts: whatever is killed, messages flow again.

With it the contract of a cluster is tested, too. All tests share one cluster that speaks TLS, and
leave it as they found it. Raylet, control service and agent are killed in `test_faults`, below
engines and streams.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl

import pytest

from partitiond.cluster.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from partitiond.cluster.ray_cluster import RayCluster
from partitiond.cluster.ray_node import RayNode
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import HostSilentError, SilentError
from tests.cluster import ray_fixtures as rays
from tests.contract.test_cluster import *  # noqa: F403 - its tests have Ray here

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.ray,
]


@pytest.fixture  # type: ignore[no-redef]
def reached(cluster: RayCluster, ray_hosts: rays.RayHosts) -> tuple[RayCluster, rays.RayHosts]:
    """Has the contract's tests use Ray."""
    return cluster, ray_hosts


async def test_a_wrong_token_is_refused(cluster: RayCluster, ray_hosts: rays.RayHosts) -> None:
    wrong = ray_hosts.folder / "wrong-token"
    ensure_token(wrong)
    async with rays.bridged(ray_hosts, "stranger", token_path=wrong) as stranger:
        await rays.says(ray_hosts.bridge_log("stranger"), "cannot be joined")
        with pytest.raises(SilentError, match="cannot be asked"):
            await stranger.members()
        with pytest.raises(HostSilentError):
            await stranger.line("a").call(b"")
    await rays.answers(cluster, "a")


async def test_two_bridges_disturb_each_other_in_nothing(
    cluster: RayCluster, ray_hosts: rays.RayHosts
) -> None:
    """Both use one relay; if either is killed, its daemon starts another."""
    async with rays.bridged(ray_hosts, "other") as other:
        await rays.answers(other, "a")
        (relay,) = rays.processes(ray_hosts.nodes[1], "ray::Relay")
        former = cluster._bridge.process
        assert former is not None
        os.kill(former.pid, signal.SIGKILL)
        await rays.all_answer(cluster)
        assert cluster._bridge.process is not former
    await rays.answers(cluster, "a")
    assert rays.processes(ray_hosts.nodes[1], "ray::Relay") == [relay]


async def test_a_killed_relay_comes_back(cluster: RayCluster, ray_hosts: rays.RayHosts) -> None:
    _, a, _ = ray_hosts.nodes
    former = await rays.kill(a, "ray::Relay")
    await rays.answers(cluster, "b")
    await rays.answers(cluster, "a")
    await rays.another(a, "ray::Relay", former)


@pytest.mark.parametrize(
    ("helper", "host"), [("ray::DashboardAgent", 0), ("ray::RuntimeEnvAgent", 1)]
)
async def test_a_host_one_of_whose_helpers_ended_comes_back(
    cluster: RayCluster, ray_hosts: rays.RayHosts, helper: str, host: int
) -> None:
    """Its raylet leaves in order, so that `ray start` waits on. The head's bridge ends, too."""
    node = ray_hosts.nodes[host]
    (raylet,) = await rays.another(node, "raylet/raylet", [])
    (pid,) = await rays.children(raylet, helper)
    os.kill(pid, signal.SIGKILL)
    await rays.another(node, "raylet/raylet", [raylet])
    await rays.all_answer(cluster)


async def test_a_stopped_relay_is_silent_until_it_goes_on(
    cluster: RayCluster, ray_hosts: rays.RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    relays = await rays.another(a, "ray::Relay", [])
    for pid in relays:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HostSilentError, match="does not answer"):
            await cluster.line("a").call(b"")
        assert await cluster.line("b").call(b"meanwhile") == b"b:meanwhile"
    finally:
        for pid in relays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    await rays.answers(cluster, "a")


def is_admitted(node: RayNode, *, tls: bool, certificate: bool) -> bool:
    """Whether Ray's directory answers the beginning of HTTP/2."""
    context = ssl.create_default_context(cafile=node.tls_dir / CA_FILE)
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(node.tls_dir / CERTIFICATE_FILE, node.tls_dir / KEY_FILE)
    with contextlib.suppress(ssl.SSLError, ConnectionError), contextlib.ExitStack() as stack:
        line = stack.enter_context(socket.create_connection((node.address, node.port), 60))
        if tls:
            line = stack.enter_context(context.wrap_socket(line, server_hostname=node.address))
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return bool(line.recv(1))
    return False


async def test_hosts_speak_tls_while_certificates_are_replaced_host_by_host(
    cluster: RayCluster, ray_hosts: rays.RayHosts
) -> None:
    """A new one of the same authority, then Ray anew there, the head last. Ray's processes end with
    their keeper, whether it is killed or asked to end.
    """
    head, _, b = ray_hosts.nodes
    for tls, certificate in ((True, True), (True, False), (False, False)):
        assert is_admitted(head, tls=tls, certificate=certificate) == certificate
    agents = {agent.pid for agent in ray_hosts.agents.values() if agent.poll() is None}
    for node in (b, head):
        before = (ray_hosts.folder / node.address / CERTIFICATE_FILE).read_bytes()
        assert (ray_hosts.new_certificate(node.address) / CERTIFICATE_FILE).read_bytes() != before
        if node is b:
            ray_hosts.end_keeper(b, signal.SIGKILL)
            await rays.gone(b)
            await rays.answers(cluster, "a")
        else:
            await asyncio.to_thread(ray_hosts.end_keeper, head)
            assert not rays.processes(head, "")
        ray_hosts.keepers[str(node.folder)] = rays.start_keeper(node)
        await rays.another(node, "raylet/raylet", [])
        await rays.answers(cluster, node.host)
    await rays.all_answer(cluster)
    assert agents == {agent.pid for agent in ray_hosts.agents.values() if agent.poll() is None}
