"""Real Ray on this machine, three hosts: whatever is killed, messages flow again.

With it the contract of a cluster is tested, too. All tests share one cluster, but for those of what
lets nobody in without a token, or speaks TLS.
"""

import asyncio
import contextlib
import dataclasses
import os
import platform
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partitiond.cli.doctor.cluster import cluster_facts
from partitiond.cluster.authority import ensure_authority, issue
from partitiond.cluster.certificates import write_files
from partitiond.cluster.directory import DirectoryAnswer, ask_directory
from partitiond.cluster.keeper import ensure_keeper, stop_keeper
from partitiond.cluster.of_settings import prepare_cluster
from partitiond.cluster.ray_cluster import RayCluster
from partitiond.cluster.ray_environment import RAY_VERSION
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import HostSilentError, SettingsError, SilentError
from partitiond.settings.schema import Settings
from tests.cluster.ray_fixtures import (
    RayHosts,
    another,
    answers,
    cluster,
    free_ports,
    gone,
    keeper_pid,
    kill,
    make_hosts,
    open_ray,
    processes,
    ray_hosts,
    ray_python,
    says,
    short_folder,
    until,
)
from tests.contract.test_cluster import (
    Reached,
    test_a_host_that_never_joined_is_silent,
    test_a_host_whose_agent_ended_is_silent_until_it_is_back,
    test_a_message_is_answered_in_the_loop_and_in_a_thread,
    test_a_stopped_host_is_silent_the_others_answer_and_nothing_is_done_late,
    test_messages_to_one_host_go_side_by_side,
    test_the_hosts_that_joined_are_members,
)

__all__ = [
    "cluster",
    "ray_hosts",
    "ray_python",
    "test_a_host_that_never_joined_is_silent",
    "test_a_host_whose_agent_ended_is_silent_until_it_is_back",
    "test_a_message_is_answered_in_the_loop_and_in_a_thread",
    "test_a_stopped_host_is_silent_the_others_answer_and_nothing_is_done_late",
    "test_messages_to_one_host_go_side_by_side",
    "test_the_hosts_that_joined_are_members",
]

PYTHON = platform.python_version()

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="function"),
    pytest.mark.ray,
]


@pytest.fixture
def reached(cluster: RayCluster, ray_hosts: RayHosts) -> Reached:
    """Has the contract's tests use Ray."""
    return cluster, ray_hosts


async def members(cluster: RayCluster) -> dict[str, str]:
    found = await asyncio.to_thread(cluster.members)
    return {f"{member.host} {member.address}": member.problem for member in found}


async def test_a_killed_relay_comes_back(cluster: RayCluster, ray_hosts: RayHosts) -> None:
    _, a, _ = ray_hosts.nodes
    former = await kill(a, "ray::Relay")
    await answers(cluster, "b")
    await answers(cluster, "a")
    await another(a, "ray::Relay", former)


async def test_a_killed_raylet_makes_a_new_node_of_the_host(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    relay = processes(a, "ray::Relay")
    former = await kill(a, "raylet/raylet")
    await answers(cluster, "b")
    await another(a, "raylet/raylet", former)

    async def other_relay() -> bool:  # made for the first message
        await answers(cluster, "a")
        return bool(set(processes(a, "ray::Relay")) - set(relay))

    await until("another relay", other_relay)
    assert await members(cluster) == {"a 127.0.0.41": "", "b 127.0.0.42": "", "head 127.0.0.40": ""}


async def test_a_killed_control_service_makes_a_new_cluster_that_all_join(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    raylets = {node.host: processes(node, "raylet/raylet") for node in ray_hosts.nodes}
    former = await kill(ray_hosts.nodes[0], "gcs_server")
    await another(ray_hosts.nodes[0], "gcs_server", former)
    for node in ray_hosts.nodes:
        await another(node, "raylet/raylet", raylets[node.host])
    for node in ray_hosts.nodes:
        await answers(cluster, node.host)


async def test_a_killed_bridge_is_started_again(cluster: RayCluster) -> None:
    former = cluster.bridge_pid
    assert former is not None
    os.kill(former, signal.SIGKILL)
    for host in ("head", "a", "b"):
        await answers(cluster, host)
    assert cluster.bridge_pid != former


async def test_rays_processes_end_with_their_keeper(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, _, b = ray_hosts.nodes
    os.kill(keeper_pid(b), signal.SIGKILL)
    await gone(b)
    await answers(cluster, "a")
    ensure_keeper(b)
    await answers(cluster, "b")


async def test_a_keeper_ends_what_a_former_one_left(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, _, b = ray_hosts.nodes
    stopped = await another(b, "raylet/raylet", [])
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    former = keeper_pid(b)
    os.kill(former, signal.SIGKILL)
    await until("the keeper to be dead", lambda: ensure_keeper(b).pid != former)
    await another(b, "raylet/raylet", stopped)
    await answers(cluster, "b")


async def test_a_stopped_relay_is_silent_and_carries_nothing_late(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    relays = await another(a, "ray::Relay", [])
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
    await answers(cluster, "a")
    assert b"too late for the relay" not in ray_hosts.done(a).read_bytes()


async def test_a_wrong_token_is_refused(cluster: RayCluster, ray_hosts: RayHosts) -> None:
    wrong = ray_hosts.folder / "wrong-token"
    ensure_token(wrong)
    stranger = RayCluster(dataclasses.replace(ray_hosts.place("stranger"), token_path=wrong))
    await stranger.start()
    try:
        log = ray_hosts.place("stranger").log_path
        await says(log, "cannot be joined")
        with pytest.raises(SilentError, match="cannot be asked"):
            await asyncio.to_thread(stranger.members)
        with pytest.raises(HostSilentError):
            await stranger.line("a").call(b"")
    finally:
        await stranger.close()
    await answers(cluster, "a")


async def test_who_has_no_token_or_another_is_not_let_in(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    head = ray_hosts.nodes[0]
    wrong = ray_hosts.folder / "wrong-token"
    ensure_token(wrong)
    for node, with_token in ((head, False), (dataclasses.replace(head, token_path=wrong), True)):
        assert ask_directory(node, with_token=with_token) == DirectoryAnswer(refused=True)
    found = ask_directory(head, with_token=True)
    assert (found.answers, found.ray) == (True, RAY_VERSION)
    await answers(cluster, "a")


async def test_a_ray_that_asks_for_no_token_is_refused(ray_python: Path) -> None:
    """By the daemon when it starts, and by the bridge if that Ray comes later."""
    with short_folder() as folder:
        hosts = make_hosts(ray_python, folder, ("head",))
        (head,) = hosts.nodes
        cluster = RayCluster(hosts.place())
        with open_ray(head):
            try:
                await cluster.start()
                await says(hosts.place().log_path, "asks for no token")
                with pytest.raises(SilentError, match="asks for no token"):
                    await asyncio.to_thread(cluster.members)
                with pytest.raises(HostSilentError, match="asks for no token"):
                    await cluster.line("head").call(b"")
                settings = Settings.model_validate(
                    {
                        "state_dir": folder / "state",
                        "cache_dir": folder / "cache",
                        "cluster": {
                            "enabled": True, "address": head.address, "port": head.port,
                            "tls": False, "python": ray_python, "manage_ray": False,
                            "token_path": head.token_path, "trust_engines": True,
                        },
                    }
                )  # fmt: skip

                # A directory that is too busy to answer in time is not refused.
                async def is_known() -> bool:
                    found = await asyncio.to_thread(cluster_facts, settings)
                    assert found.ray_version == RAY_VERSION
                    answer = DirectoryAnswer(True, ray=RAY_VERSION, python=PYTHON)
                    return found.stranger == answer and found.ray_of_cluster == RAY_VERSION

                async def is_refused() -> bool:
                    try:
                        await asyncio.to_thread(prepare_cluster, settings)
                    except SettingsError as error:
                        return "asks for no token" in error.message
                    return False

                await until("the doctor to know it", is_known)
                await until("the start to be refused", is_refused)
            finally:
                await cluster.close()


async def test_two_bridges_disturb_each_other_in_nothing(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    other = RayCluster(ray_hosts.place("other"))
    await other.start()
    try:
        await answers(other, "a")
        relay = processes(ray_hosts.nodes[1], "ray::Relay")
        assert len(relay) == 1
        await answers(cluster, "a")
    finally:
        await other.close()
    await answers(cluster, "a")
    assert processes(ray_hosts.nodes[1], "ray::Relay") == relay


async def test_a_second_host_with_a_name_is_told_and_not_asked(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    (port,) = free_ports(1)
    place = ray_hosts.folder / "9"
    twin = dataclasses.replace(
        a, address="127.0.0.49", port=port, folder=place, agent_socket=place.with_suffix(".sock")
    )
    ray_hosts.start_agent(twin)
    ensure_keeper(twin)
    try:
        found: dict[str, str] = {}

        async def is_member() -> bool:
            found.update(await members(cluster))
            return "a 127.0.0.49" in found

        await until("the second a", is_member)
        assert "127.0.0.41 has the name a already" in found["a 127.0.0.49"]
        assert found["a 127.0.0.41"] == ""
        await answers(cluster, "a")
        assert not ray_hosts.done(twin).exists()
    finally:
        stop_keeper(twin.folder)


async def test_hosts_speak_tls_while_certificates_are_replaced_host_by_host(
    ray_python: Path,
) -> None:
    """A new one of the same authority on each host, then Ray anew there, the head last."""
    with short_folder() as folder:
        ca = folder / "ca"
        ensure_authority(ca, datetime.now(UTC))

        def tls(address: str) -> Path:
            write_files(folder / address, issue(ca, "h", [address], datetime.now(UTC)))
            return folder / address

        hosts = make_hosts(ray_python, folder, ("head", "a", "b"), tls)
        cluster = RayCluster(hosts.place())
        try:
            hosts.start()
            await cluster.start()
            for node in hosts.nodes:
                await answers(cluster, node.host)
            clear = RayCluster(dataclasses.replace(hosts.place("clear"), tls_dir=None))
            await clear.start()
            await says(hosts.place("clear").log_path, "cannot be joined")
            await clear.close()
            agents = {agent.pid for agent in hosts.agents.values()}
            for node, other in zip(hosts.nodes[1:], ("b", "a"), strict=True):
                before = (tls(node.address) / "cert.pem").read_bytes()
                tls(node.address)
                assert (folder / node.address / "cert.pem").read_bytes() != before
                former = processes(node, "raylet/raylet")
                await asyncio.to_thread(stop_keeper, node.folder)
                assert await cluster.line(other).call(b"meanwhile") == f"{other}:meanwhile".encode()
                ensure_keeper(node)
                await another(node, "raylet/raylet", former)
                await answers(cluster, node.host)
            head = hosts.nodes[0]
            tls(head.address)
            former = processes(head, "gcs_server")
            await asyncio.to_thread(stop_keeper, head.folder)
            ensure_keeper(head)
            await another(head, "gcs_server", former)
            for node in hosts.nodes:
                await answers(cluster, node.host)
            assert {agent.pid for agent in hosts.agents.values() if agent.poll() is None} == agents
        finally:
            await cluster.close()
            hosts.close()


OTHER_RAY = """#!/bin/sh
PYTHONPATH={folder} exec {python} "$@"
"""


async def test_a_host_with_another_ray_is_silent_and_back_once_it_has_the_heads(
    cluster: RayCluster, ray_hosts: RayHosts, ray_python: Path
) -> None:
    """Its agent, whom engines and endpoint belong to, goes on; Ray compares versions exactly."""
    _, a, _ = ray_hosts.nodes
    folder = ray_hosts.folder / "other"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import ray; ray.__version__ = '2.60.1'", "utf-8")
    python = folder / "python"
    python.write_text(OTHER_RAY.format(folder=folder, python=ray_python), "utf-8")
    python.chmod(0o700)
    agent = ray_hosts.agents[str(a.folder)]
    stop_keeper(a.folder)
    other = dataclasses.replace(a, python=python)
    ensure_keeper(other)
    try:
        await says(a.folder / "keeper.log", "Version mismatch")

        async def says_why() -> bool:  # first it says that its node is gone
            with pytest.raises(HostSilentError) as found:
                await cluster.line("a").call(b"")
            return f"Ray {RAY_VERSION} alone can join" in found.value.message

        await until("the reason", says_why)
        await answers(cluster, "b")
        assert agent.poll() is None
        python.write_text(f'#!/bin/sh\nexec {ray_python} "$@"\n', "utf-8")  # it is upgraded
        await answers(cluster, "a")
    finally:
        stop_keeper(a.folder)
        ensure_keeper(a)
    await answers(cluster, "a")
