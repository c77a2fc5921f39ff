"""Whatever is killed, stopped or cut on real Ray, streams go on and each engine runs once.

Three hosts on this machine, started once for all tests, which come in the order of this file: each
leaves the fleet as it found it. Cables are only pulled where networks can be made (as root); the
other tests have the hosts on addresses of the loopback device there.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.host_state import HostState
from tests.cluster.network import HostNetwork, Loopback, Network, network, why_not
from tests.cluster.ray_fixtures import free_ports, ray_python
from tests.cluster.ray_fleet import (
    NAMES,
    SECONDS,
    TOKENS_PER_SECOND,
    RayFleet,
    held_streams,
    ray_fleet,
    restart,
)
from tests.e2e.harness import wait_for
from tests.e2e.test_several_hosts import Joined, ManyHosts

__all__ = ["ray_python"]

LOST_SECONDS = 30.0
"""Until a host that is cut counts as lost: a head that was just started hears from hosts before."""
GCS, RAYLET = "gcs_server", "raylet/raylet"

pytestmark = [pytest.mark.timeout(1800), pytest.mark.ray]
needs_networks = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def net() -> Iterator[HostNetwork]:
    if why_not():
        yield Loopback(free_ports(len(NAMES)))
        return
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def fleet(ray_python: Path, net: HostNetwork) -> Iterator[RayFleet]:
    with ray_fleet(ray_python, net) as made:
        yield made


def lasting(seconds: float) -> int:
    """Tokens of a stream that takes so long: as long as the fault on a quiet machine."""
    return int(seconds * TOKENS_PER_SECOND)


def of_ray(host: ManyHosts, program: str) -> set[int]:
    """Processes of a host's Ray that run a program."""
    found = set()
    for pid in host.processes():
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                found.add(pid)
    return found


def kill_ray(host: ManyHosts, program: str) -> Callable[[], None]:
    """Kill a program of a host's Ray; return what waits for its successor."""
    killed = of_ray(host, program)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return lambda: replaced(host, program, killed)


def replaced(host: ManyHosts, program: str, former: set[int]) -> None:
    def other() -> bool:
        now = of_ray(host, program)
        return bool(now) and not now & former

    wait_for(f"another {program} of {host.name}", other, seconds=SECONDS)


@pytest.mark.full
def test_an_endpoint_whose_host_has_no_engine_serves_by_those_of_others(fleet: RayFleet) -> None:
    """By TLS, with the certificates that Ray has."""
    with fleet.head.client() as client:
        for host in client.hosts():
            at = fleet.named(host.name).settings
            assert host.peers_address == f"{at.cluster.address}:{at.proxy.peers_port}"
        wait_for(
            "all endpoints to reach each other",
            lambda: not any(host.unreached for host in client.hosts()),
            seconds=SECONDS,
        )
    fleet.has_replicas(2)
    (idle,) = set(NAMES) - {view.host for view in fleet.head.views()}
    since = time.monotonic()
    with held_streams((fleet.named(idle),), lasting(2.0)) as (stream,):
        stream.enough()
        stream.was_open(time.monotonic(), since)
    fleet.has_replicas(len(NAMES))


@pytest.mark.full
def test_streams_go_on_and_engines_stay_whatever_is_killed(fleet: RayFleet) -> None:
    """An agent, a raylet, the directory of Ray, and the head, one after the other."""
    with fleet.endures(lasting(60.0)):
        fleet.one.kill_daemon()
        fleet.one.start(seconds=SECONDS)
        fleet.all_answer()
        kill_ray(fleet.one, RAYLET)()
        fleet.all_answer()
        raylets = {host: of_ray(host, RAYLET) for host in fleet.hosts}
        kill_ray(fleet.head, GCS)()
        for host, former in raylets.items():  # all hosts fall silent, and join the new one
            replaced(host, RAYLET, former)
        fleet.all_answer()
        restart(fleet.head)  # it finds what runs on each host


@pytest.mark.soak
def test_a_hung_agent(fleet: RayFleet) -> None:
    """It is silent, and what its host serves goes on."""
    hung = fleet.two.process
    assert hung is not None
    with fleet.endures(lasting(15.0)):
        hung.send_signal(signal.SIGSTOP)
        try:
            fleet.becomes("gpu-2", HostState.SILENT)
        finally:
            hung.send_signal(signal.SIGCONT)


@pytest.mark.soak
@needs_networks
def test_a_host_whose_cable_is_out_serves_on_and_is_back_with_the_cable(
    fleet: RayFleet, net: Network
) -> None:
    with fleet.endures(lasting(20.0)):
        net.cut("gpu-1")
        try:
            fleet.becomes("gpu-1", HostState.SILENT)
        finally:
            net.mend("gpu-1")


@pytest.mark.soak
@needs_networks
def test_a_host_that_was_cut_for_so_long_that_it_was_lost_gets_what_the_plan_has_then(
    fleet: RayFleet, net: Network
) -> None:
    """Its engine serves there until then; the others' streams and engines go on."""
    restart(fleet.head, **{"host.lost_seconds": LOST_SECONDS})
    before = fleet.converges()
    (there,) = {view.replica_id for view in fleet.head.views() if view.host == "gpu-1"}
    others = {replica: pid for replica, pid in before.items() if replica != there}
    with held_streams((fleet.head, fleet.two), lasting(40.0)) as streams:
        since = time.monotonic()
        net.cut("gpu-1")
        try:
            fleet.becomes("gpu-1", HostState.LOST)
            wait_for(
                "the plan to be repaired",
                lambda: fleet.head.serving_pids().keys() == others.keys(),
                seconds=SECONDS,
            )
            assert fleet.engines()["gpu-1"] == [before[there][-1]]
        finally:
            net.mend("gpu-1")
        fleet.becomes("gpu-1", HostState.FINE)
        after = fleet.converges()
        assert others.items() <= after.items(), "only the lost replica was placed anew"
        until = time.monotonic()
        for stream in streams:
            stream.enough()
        for stream in streams:
            stream.was_open(since, until)


@pytest.mark.full
def test_after_all_that_hosts_leave_with_nothing_running(fleet: RayFleet) -> None:
    assert fleet.head.cli("down").returncode == 0
    assert not any(fleet.engines().values())
    for host in (fleet.one, fleet.two):
        assert isinstance(host, Joined)
        done = host.cli("host", "leave")
        assert done.returncode == 0, done.stderr
    wait_for(
        "all processes to end",
        lambda: not any(host.processes() for host in fleet.hosts),
        seconds=SECONDS,
    )
