"""Real Ray on this machine, three hosts: whatever is killed, messages flow again."""

import asyncio
import contextlib
import dataclasses
import os
import platform
import signal
import subprocess
import time
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
    PATIENCE_SECONDS,
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
)

__all__ = ["cluster", "ray_hosts", "ray_python"]

PYTHON = platform.python_version()

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="function"),
    pytest.mark.xdist_group("ray"),
]


async def members(cluster: RayCluster) -> dict[str, str]:
    found = await asyncio.to_thread(cluster.members)
    return {f"{member.host} {member.address}": member.problem for member in found}


async def test_all_hosts_are_members_and_answer(cluster: RayCluster) -> None:
    assert await members(cluster) == {"a 127.0.0.41": "", "b 127.0.0.42": "", "head 127.0.0.40": ""}
    large = os.urandom(2_000_000)
    assert await cluster.line("a").call(large) == b"a:" + large
    assert await asyncio.to_thread(cluster.line("b").ask, b"from a thread") == b"b:from a thread"


async def test_a_host_that_is_not_there_is_silent_at_once(cluster: RayCluster) -> None:
    asked = time.monotonic()
    with pytest.raises(HostSilentError, match="not in the cluster"):
        await cluster.line("nobody").call(b"")
    assert time.monotonic() - asked < 4


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
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not set(processes(a, "ray::Relay")) - set(relay):  # made for the first message
            await answers(cluster, "a")
            await asyncio.sleep(0.2)
    await answers(cluster, "a")
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
    async with asyncio.timeout(PATIENCE_SECONDS):
        while ensure_keeper(b).pid == former:  # noqa: ASYNC110 - it is not dead yet
            await asyncio.sleep(0.1)
    await another(b, "raylet/raylet", stopped)
    await answers(cluster, "b")


async def test_a_stopped_agent_is_silent_and_does_nothing_late(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    ray_hosts.signal_agent(a, signal.SIGSTOP)
    try:
        asked = time.monotonic()
        waiting = asyncio.ensure_future(cluster.line("a").call(b"too late"))
        assert await cluster.line("b").call(b"meanwhile") == b"b:meanwhile"
        assert not waiting.done()
        with pytest.raises(HostSilentError, match="agent did not answer"):
            await waiting
        assert time.monotonic() - asked < 15
    finally:
        ray_hosts.signal_agent(a, signal.SIGCONT)
    await answers(cluster, "a")
    assert b"too late" not in ray_hosts.done(a).read_bytes()


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


async def test_a_host_without_an_agent_is_silent_at_once(
    cluster: RayCluster, ray_hosts: RayHosts
) -> None:
    _, a, _ = ray_hosts.nodes
    ray_hosts.end_agent(a)
    with pytest.raises(HostSilentError, match="no agent runs there"):
        await cluster.line("a").call(b"")
    ray_hosts.start_agent(a)
    await answers(cluster, "a")


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
                for _ in range(5):
                    found = await asyncio.to_thread(cluster_facts, settings)
                    if found.stranger is not None and found.stranger.answers:
                        break

                def prepare() -> None:
                    for _ in range(5):
                        prepare_cluster(settings)

                with pytest.raises(SettingsError, match="asks for no token"):
                    await asyncio.to_thread(prepare)
                assert found.stranger == DirectoryAnswer(True, ray=RAY_VERSION, python=PYTHON)
                assert found.ray_version == found.ray_of_cluster == RAY_VERSION
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
        until = time.monotonic() + PATIENCE_SECONDS
        while "a 127.0.0.49" not in (found := await members(cluster)):
            assert time.monotonic() < until
            await asyncio.sleep(0.2)
        assert "127.0.0.41 has the name a already" in found["a 127.0.0.49"]
        assert found["a 127.0.0.41"] == ""
        await answers(cluster, "a")
        assert not ray_hosts.done(twin).exists()
    finally:
        stop_keeper(twin.folder)


@pytest.mark.skipif(not os.access("/usr/bin/openssl", os.X_OK), reason="needs openssl")
async def test_hosts_speak_tls(ray_python: Path) -> None:
    with short_folder() as folder:
        authority = _authority(folder)
        hosts = make_hosts(ray_python, folder, ("head", "a"), authority)
        cluster = RayCluster(hosts.place())
        try:
            hosts.start()
            await cluster.start()
            await answers(cluster, "a")
            clear = RayCluster(dataclasses.replace(hosts.place("clear"), tls_dir=None))
            await clear.start()
            await says(hosts.place("clear").log_path, "cannot be joined")
            await clear.close()
        finally:
            await cluster.close()
            hosts.close()


def _authority(folder: Path) -> "Authority":
    authority = Authority(folder)
    authority.openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=fleet", "-days", "2",
    )  # fmt: skip
    return authority


@dataclasses.dataclass(frozen=True)
class Authority:
    """Makes a certificate for an address, in a folder of its own."""

    folder: Path

    def openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def __call__(self, address: str) -> Path:
        place = self.folder / f"tls-{address}"
        place.mkdir()
        (place / "ca.pem").write_bytes((self.folder / "ca.pem").read_bytes())
        (place / "ext").write_text(f"subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost\n")
        self.openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{place}/key.pem", "-out", f"{place}/csr", "-subj", f"/CN={address}",
        )  # fmt: skip
        self.openssl(
            "x509", "-req", "-in", f"{place}/csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{place}/cert.pem", "-days", "2", "-extfile",
            f"{place}/ext",
        )  # fmt: skip
        return place


async def test_certificates_are_replaced_host_by_host_while_calls_go_on(ray_python: Path) -> None:
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
        async with asyncio.timeout(PATIENCE_SECONDS):
            said = ""
            while f"Ray {RAY_VERSION} alone can join" not in said:  # first, that its node is gone
                with pytest.raises(HostSilentError) as found:
                    await cluster.line("a").call(b"")
                said = found.value.message
                await asyncio.sleep(0.1)
        await answers(cluster, "b")
        assert agent.poll() is None
        python.write_text(f'#!/bin/sh\nexec {ray_python} "$@"\n', "utf-8")  # it is upgraded
        await answers(cluster, "a")
    finally:
        stop_keeper(a.folder)
        ensure_keeper(a)
    await answers(cluster, "a")
