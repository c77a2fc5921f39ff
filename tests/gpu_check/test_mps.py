"""The MPS daemon of ours: it comes up, it quits, and where it cannot, the reason is told."""

import os
import sys
from pathlib import Path

import pytest

from bench.gpu_check import fake_mps
from bench.gpu_check.mps import MpsUnavailableError, control_command, mps
from partitiond.devices.fake import fake_cpu, fake_gpus

FAKE = (sys.executable, str(Path(fake_mps.__file__)))


async def test_it_lives_as_long_as_the_block() -> None:
    async with mps(FAKE, 0) as daemon:
        assert (daemon.pipe_dir / "control").exists()
        assert dict(daemon.client_env(25)) == {
            "CUDA_MPS_PIPE_DIRECTORY": str(daemon.pipe_dir),
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        }
        assert len(daemon.client_env()) == 1
        assert len(os.fsencode(daemon.pipe_dir / "control")) < 100
    assert not daemon.pipe_dir.exists()


async def test_it_ends_when_the_block_breaks() -> None:
    with pytest.raises(ValueError, match="broken"):
        async with mps(FAKE, 0) as daemon:
            raise ValueError("broken")
    assert not daemon.pipe_dir.exists()


@pytest.mark.parametrize("command", [("/bin/false",), ("/no/such/program",)])
async def test_one_that_does_not_come_up_is_unavailable(command: tuple[str, ...]) -> None:
    with pytest.raises(MpsUnavailableError):
        async with mps(command, 0):
            pytest.fail("it cannot be up")


def test_a_device_that_does_not_allow_it_is_not_asked() -> None:
    with pytest.raises(MpsUnavailableError, match="allow"):
        control_command(fake_cpu())


def test_where_it_is_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MpsUnavailableError, match="not installed"):
        control_command(fake_gpus("h200-141gb")[0])
