"""Real Ray on this machine, three hosts: whatever is killed, messages flow again.

With it the contract of a cluster is tested, too. All tests share one cluster that speaks TLS, and
leave it as they found it; but for that of a Ray that lets strangers in. Raylet, control service and
agent are killed in `test_faults`, below engines and streams.
"""

import asyncio
import contextlib
import dataclasses
import os
import platform
import signal
import socket
import ssl
from pathlib import Path

import pytest

from partitiond.cli.doctor.cluster import cluster_facts
from partitiond.cluster.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from partitiond.cluster.directory import DirectoryAnswer, ask_directory
from partitiond.cluster.keeper import ensure_keeper, stop_keeper
from partitiond.cluster.of_settings import prepare_cluster
from partitiond.cluster.ray_cluster import RayCluster
from partitiond.cluster.ray_environment import RAY_VERSION
from partitiond.cluster.ray_node import RayNode
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import HostSilentError, SettingsError, SilentError
from partitiond.settings.schema import Settings
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
    """And none: by Ray's directory, so that no bridge joins it."""
    head, wrong = ray_hosts.nodes[0], ray_hosts.folder / "wrong-token"
    ensure_token(wrong)
    for node, with_token in ((head, False), (dataclasses.replace(head, token_path=wrong), True)):
        assert ask_directory(node, with_token=with_token) == DirectoryAnswer(refused=True)
    found = ask_directory(head, with_token=True)
    assert (found.answers, found.ray) == (True, RAY_VERSION)
    async with rays.bridged(ray_hosts, "stranger", token_path=wrong) as stranger:
        await rays.says(ray_hosts.place("stranger").log_path, "cannot be joined")
        with pytest.raises(SilentError, match="cannot be asked"):
            await asyncio.to_thread(stranger.members)
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
        former = cluster.bridge_pid
        assert former is not None
        os.kill(former, signal.SIGKILL)
        await rays.all_answer(cluster)
        assert cluster.bridge_pid != former
    await rays.answers(cluster, "a")
    assert rays.processes(ray_hosts.nodes[1], "ray::Relay") == [relay]


async def test_a_killed_relay_comes_back(cluster: RayCluster, ray_hosts: rays.RayHosts) -> None:
    _, a, _ = ray_hosts.nodes
    former = await rays.kill(a, "ray::Relay")
    await rays.answers(cluster, "b")
    await rays.answers(cluster, "a")
    await rays.another(a, "ray::Relay", former)


@pytest.mark.parametrize("host", [0, 1], ids=["head", "a"])
@pytest.mark.parametrize("helper", ["ray::DashboardAgent", "ray::RuntimeEnvAgent"])
async def test_a_host_one_of_whose_helpers_ended_comes_back(
    cluster: RayCluster, ray_hosts: rays.RayHosts, helper: str, host: int
) -> None:
    """Its raylet leaves in order, so that `ray start` waits on. The head's bridge ends, too."""
    node = ray_hosts.nodes[host]
    (raylet,) = await rays.another(node, "raylet/raylet", [])
    (pid,) = await rays.children(raylet, helper)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        await rays.another(node, "raylet/raylet", [raylet])
        await rays.all_answer(cluster)


async def test_a_stopped_relay_is_silent_and_carries_nothing_late(
    cluster: RayCluster, ray_hosts: rays.RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    relays = await rays.another(a, "ray::Relay", [])
    for pid in relays:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HostSilentError, match="does not answer"):
            await cluster.line("a").call(b"too late for the relay")
        assert await cluster.line("b").call(b"meanwhile") == b"b:meanwhile"
    finally:
        for pid in relays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    await rays.answers(cluster, "a")
    assert b"too late for the relay" not in ray_hosts.done(a).read_bytes()


async def test_a_second_host_with_a_name_is_told_and_not_asked(
    cluster: RayCluster, ray_hosts: rays.RayHosts
) -> None:
    (_, a, _), (port,) = ray_hosts.nodes, rays.free_ports(1)
    place, address = ray_hosts.folder / "9", "127.0.0.49"
    twin = dataclasses.replace(
        a, address=address, port=port, folder=place, agent_socket=place.with_suffix(".sock"),
        tls_dir=ray_hosts.new_certificate(address),
    )  # fmt: skip
    ray_hosts.start_agent(twin)
    ensure_keeper(twin)
    try:
        found: dict[str, str] = {}

        async def is_member() -> bool:
            for member in await asyncio.to_thread(cluster.members):
                found[f"{member.host} {member.address}"] = member.problem
            return f"a {address}" in found

        await rays.until("the second a", is_member)
        assert f"{a.address} has the name a already" in found[f"a {address}"]
        assert found[f"a {a.address}"] == ""
        await rays.answers(cluster, "a")
        assert not ray_hosts.done(twin).exists()
    finally:
        stop_keeper(twin.folder)


def is_admitted(node: RayNode, *, tls: bool, certificate: bool) -> bool:
    """Whether Ray's directory answers the beginning of HTTP/2."""
    assert node.tls_dir is not None
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
            os.kill(rays.keeper_pid(b), signal.SIGKILL)
            await rays.gone(b)
            await rays.answers(cluster, "a")
        else:
            await asyncio.to_thread(stop_keeper, head.folder)
            assert not rays.processes(head, "")
        ensure_keeper(node)
        await rays.another(node, "raylet/raylet", [])
        await rays.answers(cluster, node.host)
    await rays.all_answer(cluster)
    assert agents == {agent.pid for agent in ray_hosts.agents.values() if agent.poll() is None}


async def test_a_ray_that_asks_for_no_token_is_refused(ray_python: Path) -> None:
    """By the daemon when it starts, and by the bridge if that Ray comes later."""
    with rays.short_folder() as folder:
        hosts = rays.make_hosts(ray_python, folder, ("head",))
        (head,) = hosts.nodes
        given = {
            "enabled": True, "address": head.address, "port": head.port, "tls": False,
            "python": ray_python, "manage_ray": False, "token_path": head.token_path,
            "trust_engines": True,
        }  # fmt: skip
        settings = Settings.model_validate(
            {"state_dir": folder / "state", "cache_dir": folder / "cache", "cluster": given}
        )

        # A directory that is too busy to answer in time is not refused.
        async def is_known() -> bool:
            found = await asyncio.to_thread(cluster_facts, settings)
            assert found.ray_version == RAY_VERSION
            answer = DirectoryAnswer(True, ray=RAY_VERSION, python=platform.python_version())
            return found.stranger == answer and found.ray_of_cluster == RAY_VERSION

        async def is_refused() -> bool:
            try:
                await asyncio.to_thread(prepare_cluster, settings)
            except SettingsError as error:
                return "asks for no token" in error.message
            return False

        with rays.open_ray(head):
            async with rays.bridged(hosts) as cluster:
                await rays.says(hosts.place().log_path, "asks for no token")
                with pytest.raises(SilentError, match="asks for no token"):
                    await asyncio.to_thread(cluster.members)
                with pytest.raises(HostSilentError, match="asks for no token"):
                    await cluster.line("head").call(b"")
                await rays.until("the doctor to know it", is_known)
                await rays.until("the start to be refused", is_refused)
