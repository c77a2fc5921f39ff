"""Whatever is killed on real Ray, streams go on and each engine runs once.

A head and two agents as processes on this machine, on addresses of the loopback device, each with
one simulated GPU and a stream at its endpoint. They are started once for all tests, which come in
the order of this file: each leaves the fleet as it found it.
"""

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.hardware.host_state import HostState
from partitiond.core.replica.convergence import PlanState
from partitiond.platform.clock import SystemClock
from tests.cluster.ray_fixtures import free_ports
from tests.e2e.harness import Fleet, Load
from tests.e2e.test_several_hosts import Joined, ManyHosts, all_fine
from tests.machine import wait_for

NAMES = ("head", "gpu-1", "gpu-2")
MODEL = "a"
SECONDS = 150.0
"""A limit against hangs: Ray joins in some 10 s."""
LIMIT_SECONDS = 600.0
TOKENS_PER_SECOND = 20
STREAM_TOKENS = 160
GCS, RAYLET = "gcs_server", "raylet/raylet"
UNUSED_PORTS = 7, 8, 9
"""Of the ports from a host's first one on, those that Ray does not take."""

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800), pytest.mark.ray]


@contextlib.contextmanager
def held_streams(*hosts: ManyHosts) -> Iterator[None]:
    """Around what happens: at each host's endpoint one stream follows the other, all whole."""
    with contextlib.ExitStack() as stack:
        loads = [Load(host.base_url, {MODEL: 1}, STREAM_TOKENS) for host in hosts]
        for load in loads:
            stack.enter_context(load.running())
        wait_for("streams", lambda: all(load.streaming(MODEL) for load in loads))
        yield
    for load in loads:
        assert load.outcomes
        assert [o for o in load.outcomes if o.ended != "done" or o.tokens < STREAM_TOKENS] == []


class RayFleet:
    """A head, and two hosts that joined it over Ray; the plan has at most one replica on each."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        self.hosts: list[ManyHosts] = []
        for place, (name, port) in enumerate(zip(NAMES, free_ports(len(NAMES)), strict=True)):
            peers, proxy, control = (port + unused for unused in UNUSED_PORTS)
            values: dict[str, Any] = {
                "cluster.python": str(python),
                "cluster.trust_engines": True,
                "cluster.address": f"127.0.0.{51 + place}",
                "cluster.port": port,
                "proxy.port": proxy,
                "proxy.peers_port": peers,
                "control.port": control,
                "host.silent_seconds": 4.0,
                "host.lost_seconds": LIMIT_SECONDS,
            }
            kind = Joined if place else ManyHosts
            own = {} if place else {"cluster.enabled": True}
            self.hosts.append(kind(folder / name, name, **values, **own))
        self.head, self.one, self.two = self.hosts

    def start(self, replicas: int) -> None:
        """Start all hosts, and engines of one model on some of them."""
        cluster = self.head.settings.cluster
        self.head.start(seconds=SECONDS)
        for host in self.hosts[1:]:
            assert isinstance(host, Joined)
            words = ("--address", host.settings.cluster.address, "--out", str(self.folder))
            made = self.head.cli("host", "certificate", "--for", host.name, *words)
            assert made.returncode == 0, made.stderr
            bundle = str(self.folder / f"{host.name}.bundle")
            host.join = ("--from", bundle, f"{cluster.address}:{cluster.port}")
            host.start(seconds=SECONDS)
        all_fine(self.head)
        self.head.register(
            MODEL,
            replicas,
            isolation="device",
            workload={"prompt_tokens": 16, "output_tokens": STREAM_TOKENS},
            engine={"extra_args": ["--token-seconds", str(1 / TOKENS_PER_SECOND)]},
        )
        self.serves(replicas)

    def serves(self, replicas: int) -> None:
        self.head.apply()
        self.head.serving(replicas, seconds=SECONDS)

    def grows(self) -> None:
        """Have each host have an engine."""
        count = len(NAMES)
        with self.head.client() as client:
            client.update(MODEL, {"min_replicas": count, "max_replicas": count})
        self.serves(count)

    def engines(self) -> dict[str, list[int]]:
        """Processes of engines on this machine, by host."""
        return {host.name: sorted(filter(_is_engine, host.processes())) for host in self.hosts}

    def starts(self) -> int:
        """Number of starts of engines so far."""
        with self.head.client() as client:
            return sum(event.kind == "engine-starting" for event in client.events(limit=1000))

    def all_answer(self) -> None:
        """Wait until each host has answered once more and is fine."""
        since = SystemClock().utc_iso()

        def fine() -> bool:
            with self.head.client() as client:
                hosts = client.hosts()
            return [host.name for host in hosts] == list(NAMES) and all(
                host.state is HostState.FINE and host.last_word > since for host in hosts
            )

        wait_for("all hosts to answer", fine, seconds=SECONDS)
        all_fine(self.head)

    def converges(self) -> dict[str, tuple[int | None, ...]]:
        """Wait until the plan has converged on all hosts, and nothing runs that is not of it;
        return the processes of each replica: its shim, which leads the group, and its engine.
        """
        self.all_answer()

        def converged() -> bool:
            with self.head.client() as client:
                return client.convergence().state is PlanState.CONVERGED

        wait_for("the plan to converge", converged, seconds=SECONDS)
        views = self.head.serving(len(NAMES), seconds=SECONDS)
        engines = self.engines()
        told = {view.host: [view.pid] for view in views}
        found = {host: [os.getpgid(engine) for engine in there] for host, there in engines.items()}
        assert told == found, f"the head knows {told}, and there run {found}"
        return {view.replica_id: (view.pid, *engines[view.host]) for view in views}


def _is_engine(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
        return (b"-m", b"partitiond.simulated.engine") in itertools.pairwise(words)
    return False


@pytest.fixture(scope="module")
def fleet(ray_python: Path) -> Iterator[RayFleet]:
    """With two replicas on three hosts."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    made = RayFleet(folder, ray_python)
    try:
        made.start(2)
        yield made
    finally:
        for host in made.hosts:
            host.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def of_ray(host: Fleet, program: str) -> set[int]:
    """Processes of a host's Ray that run a program."""
    found = set()
    for pid in host.processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            if program in command:
                found.add(pid)
    return found


def kill_ray(host: Fleet, program: str) -> Callable[[], None]:
    """Kill a program of a host's Ray; return what waits for its successor."""
    killed = of_ray(host, program)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return lambda: replaced(host, program, killed)


def replaced(host: Fleet, program: str, former: set[int]) -> None:
    def other() -> bool:
        now = of_ray(host, program)
        return bool(now) and not now & former

    wait_for(f"another {program} of {host.folder.name}", other, seconds=SECONDS)


def test_an_endpoint_whose_host_has_no_engine_serves_by_those_of_others(fleet: RayFleet) -> None:
    """By TLS, with the certificates that Ray has."""
    with fleet.head.client() as client:
        told = {host.name: host.peers_address for host in client.hosts()}
        wait_for(
            "all endpoints to reach each other",
            lambda: not any(host.unreached for host in client.hosts()),
            seconds=SECONDS,
        )
    for host in fleet.hosts:
        at = host.settings
        assert told[host.name] == f"{at.cluster.address}:{at.proxy.peers_port}"
    busy = {view.host for view in fleet.head.views()}
    (idle,) = (host for host in fleet.hosts if host.name not in busy)
    with held_streams(idle):
        pass


def test_streams_go_on_and_engines_stay_whatever_is_killed(fleet: RayFleet) -> None:
    """An agent, the directory of Ray, which takes all raylets along, and the head."""
    fleet.grows()
    before, starts = fleet.converges(), fleet.starts()
    with held_streams(*fleet.hosts):
        fleet.one.kill_daemon()
        fleet.one.start(seconds=SECONDS)
        fleet.all_answer()
        raylets = {host.name: of_ray(host, RAYLET) for host in fleet.hosts}
        kill_ray(fleet.head, GCS)()
        for host in fleet.hosts:  # all fall silent, and join the new one
            replaced(host, RAYLET, raylets[host.name])
        fleet.all_answer()
        fleet.head.kill_daemon()
        fleet.head.start(seconds=SECONDS)  # it finds what runs on each host
        assert fleet.converges() == before
    assert fleet.starts() == starts


def test_after_all_that_hosts_leave_with_nothing_running(fleet: RayFleet) -> None:
    assert fleet.head.cli("down").returncode == 0
    assert not any(fleet.engines().values())
    for host in (fleet.one, fleet.two):
        done = host.cli("down")
        assert done.returncode == 0, done.stderr
    wait_for(
        "all processes to end",
        lambda: not any(host.processes() for host in fleet.hosts),
        seconds=SECONDS,
    )
