"""A host whose cable is out is silent, then lost, and serves on; when the cable is in, it is back.

Real Ray, and a head and two agents as processes, each in a network of its own.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.host_state import HostState
from tests.cluster.network import HEAD_ADDRESS, Network, network, why_not
from tests.cluster.ray_fixtures import ray_python
from tests.e2e.harness import wait_for
from tests.e2e.test_several_hosts import Joined, ManyHosts, all_fine

__all__ = ["ray_python"]

NAMES = ("head", "gpu-1", "gpu-2")
SECONDS = 150.0
"""A limit against hangs: Ray joins in some 10 s, and a host is lost after 45."""
ASKS = """
import json, sys, urllib.request
body = json.dumps({"model": "a", "prompt": "Once", "max_tokens": 8}).encode()
request = urllib.request.Request(sys.argv[1], body, {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request, timeout=60))["usage"]["completion_tokens"])
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture
def hosts(ray_python: Path) -> Iterator[tuple[Network, ManyHosts, Joined, Joined]]:
    """The network, the head and two hosts that joined it."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    made: list[ManyHosts] = []
    common: dict[str, object] = {
        "cluster.python": str(ray_python),
        "cluster.trust_engines": True,
        "host.silent_seconds": 4.0,
        "host.lost_seconds": 45.0,
    }
    with network() as net:
        try:
            head = ManyHosts(
                folder / "head", "head", **common,
                **{"cluster.enabled": True, "cluster.address": HEAD_ADDRESS},
            )  # fmt: skip
            made.append(head)
            head.start(seconds=SECONDS)
            joined: list[Joined] = []
            for name in NAMES[1:]:
                address = net.add(name)
                one = Joined(folder / name, name, **common, **{"cluster.address": address})
                made.append(one)
                joined.append(one)
                words = ("--for", name, "--address", address, "--out", str(folder))
                assert head.cli("host", "certificate", *words).returncode == 0
                one.prefix = net.inside(name)
                one.join = ("--from", str(folder / f"{name}.bundle"), HEAD_ADDRESS)
                one.start(seconds=SECONDS)
            yield net, head, joined[0], joined[1]
        finally:
            for host in made:
                host.host.heal()
                host.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def completes(host: ManyHosts) -> int:
    """Tokens of a completion at a host's endpoint, asked there."""
    program = [sys.executable, "-c", ASKS, f"{host.base_url}/completions"]
    done = subprocess.run([*host.prefix, *program], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def becomes(head: ManyHosts, name: str, *states: HostState) -> None:
    def state() -> HostState:
        with head.client() as client:
            return next(host.state for host in client.hosts() if host.name == name)

    wait_for(f"{name} to be {states[0]}", lambda: state() in states, seconds=SECONDS)


def test_a_host_whose_cable_is_out_serves_on_and_is_back_with_the_cable(
    hosts: tuple[Network, ManyHosts, Joined, Joined],
) -> None:
    """Silent, it is adopted with its engine; lost, it gets what the plan has for it by then."""
    net, head, one, two = hosts
    all_fine(head)
    head.register("a", 3, isolation="device")
    assert len({placement.device_id for placement in head.apply()}) == 3
    head.serving(3, seconds=SECONDS)
    before = head.serving_pids()
    assert [completes(host) for host in (head, one, two)] == [8, 8, 8]

    net.cut("gpu-1")
    becomes(head, "gpu-1", HostState.SILENT)
    assert completes(one) == completes(two) == completes(head) == 8
    net.mend("gpu-1")
    becomes(head, "gpu-1", HostState.FINE)
    all_fine(head)
    head.serving(3, seconds=SECONDS)
    assert head.serving_pids() == before, "each engine was adopted, and none started"

    (there,) = {view.replica_id for view in head.views() if view.host == "gpu-1"}
    net.cut("gpu-1")
    becomes(head, "gpu-1", HostState.LOST)
    others = {replica: pid for replica, pid in before.items() if replica != there}
    wait_for("the plan to be repaired", lambda: head.serving_pids() == others, seconds=SECONDS)
    assert completes(one) == completes(two) == completes(head) == 8
    assert before[there] in one.processes()
    net.mend("gpu-1")
    becomes(head, "gpu-1", HostState.FINE)
    all_fine(head)
    views = head.serving(3, seconds=SECONDS)
    assert {view.host for view in views} == set(NAMES)
    assert others.items() <= head.serving_pids().items(), "only the lost replica was placed anew"
    assert [completes(host) for host in (head, one, two)] == [8, 8, 8]
