"""A daemon with the privileged helper turns MIG on, on A100s that are reset for it.

The driver refuses the reset while any process has the GPU open; the daemon listens to its events.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.devices.partitions.journal import EntryKind, read_entries
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import wait_for
from tests.e2e.test_simulated_gpus import GpuFleet, planned_in

ONE = HostDescription("one", (GpuDescription("a100-80gb"),), privileged=False, cores=32)

pytestmark = pytest.mark.full


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost.create(ONE, tmp_path / "host")


@pytest.fixture
def helper(host: SimulatedHost) -> Iterator[Path]:
    """Its socket."""
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        path = Path(folder) / "h.sock"
        command = [sys.executable, "-m", "partitiond.devices.mig.helper", "--socket", str(path)]
        command += ["--nvml", str(host.nvml_path), "--allow-mode"]
        allowed = os.environ | {"PARTITIOND_SIMULATED_PRIVILEGED": "1"}
        with subprocess.Popen(command, env=allowed, stderr=subprocess.DEVNULL) as process:
            wait_for("the helper", path.is_socket, seconds=20)
            yield path
            process.terminate()


@pytest.fixture
def fleet(tmp_path: Path, host: SimulatedHost, helper: Path) -> Iterator[GpuFleet]:
    made = GpuFleet(
        tmp_path / "fleet", host, **{"gpu.mig_changes": "mode", "gpu.mig_helper": str(helper)}
    )
    yield made
    made.host.heal()
    made.cleanup()


def test_the_daemon_turns_mig_on_for_a_plan_and_off_at_its_end(
    fleet: GpuFleet, host: SimulatedHost
) -> None:
    (uuid,) = host.uuids()
    fleet.start()
    assert not host.mig_mode(uuid)
    fleet.register("a", 3, isolation="hardware")
    planned_in(SharingMode.MIG, fleet.apply())
    fleet.serving(3)
    assert not fleet.failures()
    assert host.mig_mode(uuid)
    assert EntryKind.MIG_MODE in {entry.kind for entry in read_entries(fleet.journal)}
    assert fleet.complete("a") == 8
    assert fleet.terminate() == 0
    fleet.require_clean()
    assert not host.mig_mode(uuid)
