"""Our MPS daemon starts and quits, and if it cannot, the reason is told."""

from pathlib import Path

import pytest

from bench.gpu_check.mps import MpsUnavailableError, control_program, mps
from partitiond.devices.fake import fake_cpu, fake_gpus
from partitiond.simulated.gpus.mps_control import write_program

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"


async def test_it_lives_as_long_as_the_block_even_one_that_breaks(tmp_path: Path) -> None:
    program = str(write_program(tmp_path / "nvidia-cuda-mps-control"))
    async with mps(program, GPU) as lab:
        assert lab.alive()
        env = dict(lab.client_env(25, 0))
        assert env["CUDA_MPS_PIPE_DIRECTORY"] == str(lab.pipe_dir)
        assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert not lab.alive()
    assert not lab.folder.exists()
    with pytest.raises(ValueError, match="broken"):
        async with mps(program, GPU) as lab:
            raise ValueError("broken")
    assert not lab.alive()
    assert not lab.folder.exists()


@pytest.mark.parametrize("command", ["/bin/false", "/no/such/program"])
async def test_one_that_does_not_come_up_is_unavailable(command: str) -> None:
    with pytest.raises(MpsUnavailableError):
        async with mps(command, GPU):
            pytest.fail("it cannot be up")


def test_a_device_that_does_not_allow_it_is_not_asked() -> None:
    with pytest.raises(MpsUnavailableError, match="allow"):
        control_program(fake_cpu())


def test_where_it_is_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MpsUnavailableError, match="not installed"):
        control_program(fake_gpus("h200-141gb")[0])
