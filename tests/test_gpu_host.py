"""The wiring of a host's GPUs keeps what outlives the daemon, and ends the rest with it."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, EngineUnavailableError
from partitiond.devices.mps import MpsControl
from partitiond.engines.install.finder import EngineFinder
from partitiond.engines.process.cgroups import EngineCgroups
from partitiond.engines.process.delegation import Delegation
from partitiond.gpu_host import outliving
from partitiond.settings.schema import Settings
from partitiond.simulated.gpus import SimulatedHost


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="pg-") as found:
        yield Path(found)


def mps(folder: Path, host: SimulatedHost, cgroups: EngineCgroups) -> MpsControl:
    return MpsControl(folder / "r", str(host.mps_control), into=outliving(cgroups))


def test_on_a_simulated_host_vllm_is_not_looked_for(folder: Path) -> None:
    gpu = {"enabled": True, "simulated_host": str(folder)}
    finder = EngineFinder(Settings.model_validate({"state_dir": str(folder), "gpu": gpu}), "cuda")
    problem = finder.problem()
    assert problem is not None
    assert "--engine-kind simulated" in problem.hint
    assert "install" not in str(problem)
    with pytest.raises(EngineUnavailableError, match="simulated GPU host"):
        finder()
    off = Settings.model_validate({"state_dir": str(folder), "gpu": gpu | {"enabled": False}})
    assert "simulated" not in str(EngineFinder(off, "cuda").problem())


async def test_an_mps_daemon_gets_a_cgroup_beside_those_of_engines(folder: Path) -> None:
    host = SimulatedHost.create("a100-80gb-x8", folder / "h")
    delegated = folder / "delegated"
    delegated.mkdir()
    control = mps(folder, host, EngineCgroups("delegated", lambda: Delegation(delegated)))
    daemon = control.daemon(host.uuids()[0])
    await daemon.ensure()
    try:
        (cgroup,) = delegated.iterdir()
        assert cgroup.name == f"engine-mps-{daemon.folder.name}"
        # The program goes to the background: what moved into the cgroup is its parent.
        assert int((cgroup / "cgroup.procs").read_text()) > 0
    finally:
        await daemon.quit()


async def test_a_cgroup_that_cannot_be_had_is_a_devices_refusal(folder: Path) -> None:
    host = SimulatedHost.create("a100-80gb-x8", folder / "h")
    control = mps(folder, host, EngineCgroups("delegated", lambda: None))
    with pytest.raises(DeviceError, match=r"engine.cgroup = delegated is not possible") as refused:
        await control.daemon(host.uuids()[0]).ensure()
    assert "partitiond setup" in refused.value.hint
    assert await asyncio.to_thread(control.own_daemons) == []
