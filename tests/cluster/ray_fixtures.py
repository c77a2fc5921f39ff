"""Provides hosts of a real Ray on this machine: 127.0.0.x, an agent and a keeper for each.

Import the fixtures by name into a test module.
"""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from partitiond.cluster.authority import ensure_authority, issue
from partitiond.cluster.certificates import write_files
from partitiond.cluster.keeper import keeper_command
from partitiond.cluster.ray_cluster import RayCluster
from partitiond.cluster.ray_environment import install_ray
from partitiond.cluster.ray_node import (
    FOLDER_VARIABLE,
    RayNode,
)
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import SilentError
from partitiond.engines.install.uv_run import source_options
from partitiond.ports.cluster import Cluster
from partitiond.settings.cluster import WORKER_PORT_OFFSET, WORKER_PORTS
from partitiond.settings.schema import Settings
from tests.machine import until

PATIENCE_SECONDS = 600.0
"""A slow machine starts Ray in a minute; what is waited for takes some seconds elsewhere."""
FIRST_PORT, LAST_PORT = 20000, 30000
AGENT = Path(__file__).with_name("echo_agent.py")


def managed_python() -> Path:
    """An interpreter with Ray: the managed environment, installed if it is not there."""
    return install_ray(Settings().cache_dir / "cluster", source_options()).python


@pytest.fixture(scope="session")
def ray_python() -> Path:
    return managed_python()


def free_ports(count: int) -> list[int]:
    """First ports of so many nodes, whose further ports are free, too."""
    span, found = WORKER_PORT_OFFSET + WORKER_PORTS, list[int]()
    first = FIRST_PORT + (os.getpid() * 7 * span) % (LAST_PORT - FIRST_PORT - 10 * span)
    while len(found) < count:
        if all(_is_free(port) for port in range(first, first + span)):
            found.append(first)
        first += span
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@dataclasses.dataclass
class RayHosts:
    """Hosts of one cluster; the first is the head."""

    folder: Path
    nodes: list[RayNode]
    agents: dict[str, "subprocess.Popen[bytes]"] = dataclasses.field(default_factory=dict)
    keepers: dict[str, "subprocess.Popen[bytes]"] = dataclasses.field(default_factory=dict)

    def start(self) -> None:
        for node in self.nodes:
            self.start_agent(node)
            self.keepers[str(node.folder)] = start_keeper(node)

    def end_keeper(self, node: RayNode, number: int = signal.SIGTERM) -> None:
        """Ray ends with its keeper, which waits for that if it is asked to end."""
        keeper = self.keepers[str(node.folder)]
        keeper.send_signal(number)
        keeper.wait()

    def start_agent(self, node: RayNode) -> None:
        done = self.done(node)
        self.agents[str(node.folder)] = subprocess.Popen(
            [sys.executable, str(AGENT), str(node.agent_socket), node.host, str(done)]
        )

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.end_keeper(node)
        self.end_agents()

    def end_agents(self) -> None:
        for agent in self.agents.values():
            agent.kill()
            agent.wait()

    def end_agent(self, node: RayNode) -> None:
        agent = self.agents[str(node.folder)]
        agent.kill()
        agent.wait()

    def new_certificate(self, address: str) -> Path:
        """Folder with an address' files, of which the certificate is new."""
        ensure_authority(self.folder / "ca", datetime.now(UTC))
        folder = self.folder / address
        write_files(folder, issue(self.folder / "ca", "h", [address], datetime.now(UTC)))
        return folder

    def done(self, node: RayNode) -> Path:
        """The file in which an agent writes down what it answered."""
        return node.folder.with_suffix(".done")

    def signal_agent(self, node: RayNode, number: int) -> None:
        self.agents[str(node.folder)].send_signal(number)

    def bridge_log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def start_keeper(node: RayNode) -> "subprocess.Popen[bytes]":
    """As a daemon does where no unit runs it."""
    node.folder.mkdir(exist_ok=True)
    with (node.folder / "keeper.log").open("ab") as log:
        return subprocess.Popen(keeper_command(node), stdout=log, stderr=log)


def make_hosts(python: Path, folder: Path, names: tuple[str, ...]) -> RayHosts:
    """Describe hosts."""
    token, made = folder / "token", RayHosts(folder, [])
    ensure_token(token)
    for place, (name, port) in enumerate(zip(names, free_ports(len(names)), strict=True)):
        address, head = f"127.0.0.{40 + place}", made.nodes[0].cluster_address if place else ""
        files = made.new_certificate(address)
        made.nodes.append(
            RayNode(
                python, name, address, head, port, folder / f"{place}.sock", folder / str(place),
                token, files,
            )
        )  # fmt: skip
    return made


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for hosts whose path Ray's sockets fit into."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_hosts(ray_python: Path) -> Iterator[RayHosts]:
    """Three hosts: head, a and b."""
    with short_folder() as folder:
        hosts = make_hosts(ray_python, folder, ("head", "a", "b"))
        try:
            hosts.start()
            yield hosts
        finally:
            hosts.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(ray_hosts: RayHosts) -> AsyncIterator[RayCluster]:
    """The cluster as the head's daemon has it; all hosts answer."""
    async with bridged(ray_hosts) as cluster:
        await all_answer(cluster)
        yield cluster


@contextlib.asynccontextmanager
async def bridged(
    hosts: RayHosts, name: str = "bridge", **other: Path
) -> AsyncIterator[RayCluster]:
    """A cluster whose bridge runs; some of its node may be other than a daemon has it."""
    node = dataclasses.replace(hosts.nodes[0], **other)  # type: ignore[arg-type]
    cluster = RayCluster(node, hosts.folder / f"{name}.sock", hosts.bridge_log(name))
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.close()


async def answers(cluster: Cluster, host: str) -> None:
    """Wait until a host answers."""

    async def answered() -> bool:
        try:
            return await cluster.line(host).call(b"hello") == f"{host}:hello".encode()
        except SilentError:
            return False

    await until(answered, f"an answer of {host}")


async def all_answer(cluster: Cluster) -> None:
    """Wait until each of the three hosts answers."""
    for host in ("head", "a", "b"):
        await answers(cluster, host)


def processes(node: RayNode, word: str) -> list[int]:
    """Pids of a host's processes of Ray with a word in their command."""
    mark, found = f"{FOLDER_VARIABLE}={node.folder}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or mark not in (entry / "environ").read_bytes():
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")[:160].decode()
            if word in command:
                found.append(int(entry.name))
    return found


async def kill(node: RayNode, word: str) -> list[int]:
    """Kill a host's processes with a word in their command, which are there or come."""
    found = await another(node, word, [])
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


async def another(node: RayNode, word: str, former: list[int]) -> list[int]:
    """Wait until a host has such processes, none of which is a former one."""
    found: list[int] = []

    def came() -> bool:
        found[:] = processes(node, word)
        return bool(found) and not set(found) & set(former)

    await until(came, f"another {word} of {node.host}")
    return found


async def children(pid: int, name: str) -> list[int]:
    """Wait until a process has children of a name; helpers of Ray overwrite their environment."""
    found: list[int] = []

    def came() -> bool:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and name.encode() in (entry / "cmdline").read_bytes():
                    parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                    if int(parent) == pid:
                        found.append(int(entry.name))
        return bool(found)

    await until(came, f"{name} of process {pid}")
    return found


async def gone(node: RayNode) -> None:
    """Wait until a host has no process of Ray."""
    await until(lambda: not processes(node, ""), f"the end of Ray of {node.host}")


async def says(log: Path, words: str) -> None:
    """Wait until a log says some words."""
    await until(lambda: asyncio.to_thread(_has, log, words), words)


def _has(log: Path, words: str) -> bool:
    return log.exists() and words in log.read_text("utf-8", errors="replace")
