"""A daemon whose driver hangs starts in its usual time, adopts what runs, and does its work."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from partitiond.core.errors import PartitiondError
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import wait_for
from tests.e2e.test_simulated_gpus import GpuFleet

GPUS = HostDescription("two", (GpuDescription("a100-80gb", 2),), cores=8)


class HangingFleet(GpuFleet):
    """Ready once its loop turns; of devices that hang it is told later that they do."""

    def _is_ready(self) -> bool:
        with contextlib.suppress(PartitiondError), self.client() as client:
            return "loop" not in client.readiness()
        return False


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[HangingFleet]:
    host = SimulatedHost.create(GPUS, tmp_path / "host")
    host.mps_control.unlink()
    made = HangingFleet(tmp_path / "fleet", host, **{"proxy.require_keys": True})
    yield made
    host.heal()
    made.cleanup()


@pytest.mark.full
@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo_v2"])
def test_a_restarted_daemon_adopts_withdraws_and_revokes(
    fleet: HangingFleet, function: str
) -> None:
    fleet.start()
    fleet.register("a", 2)
    fleet.apply()
    fleet.serving(2)
    with fleet.client() as client:
        record, key = client.create_key("laptop")
    before = {view.replica_id: view.pid for view in fleet.views()}
    fleet.kill_daemon()
    fleet.host.hang(function)
    fleet.start()
    fleet.serving(2)
    assert {view.replica_id: view.pid for view in fleet.views()} == before
    asked = fleet.openai(key)
    assert asked.completions.create(model="a", prompt="Once", max_tokens=2).usage
    with fleet.client() as client:
        client.remove_key(record.id)
    with pytest.raises(openai.AuthenticationError):
        asked.with_options(max_retries=0).completions.create(model="a", prompt="Once", max_tokens=2)
    dead, pid = next(iter(before.items()))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(
        "the route to be withdrawn",
        lambda: all(v.state != "serving" for v in fleet.views() if v.replica_id == dead),
    )
    fleet.host.heal()
    fleet.serving(2)
    assert fleet.terminate() == 0
    fleet.require_clean()
