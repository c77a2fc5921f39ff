"""Three hosts as real processes are one fleet: a head and two agents, with simulated GPUs and
engines. Whatever is killed, engines go on and are adopted, never run twice.

All hosts are on this machine, each with folders, ports and simulated GPUs of its own; in place of
Ray they find each other in a folder.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import clean_environment, wait_for
from tests.e2e.test_simulated_gpus import GpuFleet

SECONDS = 120.0
AGENTS = ("gpu-1", "gpu-2")


class ManyHosts(GpuFleet):
    """A head with one simulated GPU, whose fleet other hosts join."""

    def __init__(self, folder: Path, name: str, cluster: Path, **overrides: object) -> None:
        gpu = HostDescription(name, (GpuDescription("a100-80gb", 1),), cores=8)
        values: dict[str, object] = {
            "host.name": name,
            "host.silent_seconds": 8.0,
            "cluster.folder": str(cluster),
        }
        host = SimulatedHost.create(gpu, folder / "gpus")
        host.mps_control.unlink()  # memory shares start fewer processes
        super().__init__(folder, host, **values, **overrides)
        self.name = name

    def devices(self) -> dict[str, DeviceHealth]:
        """Health of the devices by host."""
        with self.client() as client:
            return {device.host: device.health for device in client.devices()}

    def serving_pids(self) -> dict[str, int | None]:
        return {view.replica_id: view.pid for view in self.views() if view.state == "serving"}


class Joined(ManyHosts):
    """A host that joined: its agent in place of a daemon."""

    def start(self, *, seconds: float = SECONDS) -> None:
        before = self.log.read_text().count("ready: obeys") if self.log.exists() else 0
        command = [sys.executable, "-m", "partitiond", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "host", "join", "head"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                start_new_session=True,
            )

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return self.log.read_text().count("ready: obeys") > before

        wait_for(f"the agent of {self.name}", ready, seconds=seconds)


@pytest.fixture
def hosts() -> Iterator[Callable[[str], ManyHosts]]:
    """Makes hosts of one fleet; the head is called "head"."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    made: list[ManyHosts] = []

    def make(name: str, kind: type[ManyHosts] = ManyHosts) -> ManyHosts:
        kind = Joined if name in AGENTS else ManyHosts
        more = {} if kind is Joined else {"cluster.enabled": True}
        made.append(kind(folder / name, name, folder / "hosts", **more))
        return made[-1]

    yield make
    for host in made:
        host.host.heal()
        host.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def all_fine(head: ManyHosts, names: tuple[str, ...] = ("head", *AGENTS)) -> None:
    fine = dict.fromkeys(names, DeviceHealth.FINE)
    wait_for(f"the devices of {names}", lambda: head.devices() == fine, seconds=SECONDS)


def fleet_of_three(hosts: Callable[[str], ManyHosts]) -> tuple[ManyHosts, ManyHosts, ManyHosts]:
    """Three hosts, on each of which one engine serves the model "a"."""
    head, one, two = hosts("head"), hosts("gpu-1"), hosts("gpu-2")
    for host in (head, one, two):
        host.start(seconds=SECONDS)
    all_fine(head)
    head.register("a", 3, isolation="device")
    assert len({placement.device_id for placement in head.apply()}) == 3
    head.serving(3, seconds=SECONDS)
    return head, one, two


def same_pids(head: ManyHosts, before: dict[str, int | None]) -> None:
    views = head.serving(3, seconds=SECONDS)
    assert {view.replica_id: view.pid for view in views} == before


@pytest.mark.slow
def test_whatever_is_killed_engines_of_three_hosts_go_on(
    hosts: Callable[[str], ManyHosts],
) -> None:
    head, one, two = fleet_of_three(hosts)
    assert all(host.complete("a") == 8 for host in (head, one, two))
    before = head.serving_pids()
    assert len(before) == 3

    one.kill_daemon()
    one.start()
    all_fine(head)
    same_pids(head, before)

    head.kill_daemon()
    head.start(seconds=SECONDS)
    all_fine(head)
    same_pids(head, before)

    assert two.terminate() == 0
    assert two.complete("a") == 8
    two.start()
    all_fine(head)
    same_pids(head, before)
