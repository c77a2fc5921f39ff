"""The daemon's steps derive their results from observations, without a daemon."""

import tomllib
from pathlib import Path

import pytest

from bench.gpu_check.mps import MpsUnavailableError, control_program, mps
from bench.gpu_check.runner import served_by
from bench.gpu_check.scale import FAKE
from bench.gpu_check.served import PACKAGES, Left, _split, missing_packages
from bench.gpu_check.side_by_side import ROOT
from bench.gpu_check.steps.differs import differences
from bench.gpu_check.steps.discovery import uncapped, unlimited
from bench.gpu_check.steps.killed import Seen, body_of
from partitiond.simulated.gpus.mps_program import write_program
from tests.devices.fake import fake_cpu, fake_gpus


def test_requests_are_divided_evenly_and_every_worker_has_one() -> None:
    for total, parts in ((512, 8), (5, 2), (1, 3), (0, 1)):
        shares = _split(total, parts)
        assert len(shares) == parts
        assert sum(shares) == max(total, parts)
        assert max(shares) - min(shares) <= 1 <= min(shares)
    assert missing_packages() == [], "this environment can run a daemon"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {line.partition(">")[0].replace("-", "_") for line in project["dependencies"]}
    assert set(PACKAGES) ^ needed == {"yaml", "pyyaml", "pydantic", "nvidia_ml_py", "uv"}
    assert [Left(*left).nothing for left in ((0, 0), (1, 0), (0, 1))] == [True, False, False]


def test_the_longest_silence_is_that_after_the_kill() -> None:
    seen = Seen(good=[1.0, 9.0, 2.0, 9.5, 14.0])
    assert seen.gap_after(8.0) == pytest.approx(4.5)
    assert seen.gap_after(2.5) == pytest.approx(6.5)
    assert seen.gap_after(20.0) is None
    assert body_of(FAKE, 1)["prompt"] != body_of(FAKE, 2)["prompt"], "a repeat would be refused"


def test_several_api_servers_are_started_by_another_command() -> None:
    argv = ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--uds", "engine.sock",
            "--model", "/models/m", "--served-model-name", "m", "--max-num-seqs", "8"]  # fmt: skip
    assert served_by(argv, 4) == [
        "/env/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/models/m",
        "--uds", "engine.sock", "--served-model-name", "m", "--max-num-seqs", "8",
        "--api-server-count", "4",
    ]  # fmt: skip


def test_a_cap_that_does_not_hold_is_said_and_so_is_what_a_simulated_host_gets_wrong() -> None:
    row = {"SM % asked": 50, "SMs seen": 66, "SMs of the GPU": 132, "memory limit MiB": 4096,
           "memory seen MiB": 4096}  # fmt: skip
    assert uncapped([row, {**row, "SM % asked": 100, "SMs seen": 132}]) == ""
    assert "saw 132 SMs" in uncapped([row, {**row, "SMs seen": 132}])
    over = [{**row, "memory seen MiB": 80000}]
    assert (uncapped(over), "saw 80000 MiB" in unlimited(over)) == ("", True)
    here = {"NVML sm_count": 132, "MIG profile 1g.18gb": {"sms": 16}, "NVML health": "fine"}
    there = {"NVML sm_count": 114, "MIG profile 1g.20gb": {"sms": 16}, "NVML health": "fine"}
    found = differences(here, there)
    assert [row["answer"] for row in found] == [
        "NVML sm_count", "MIG profile 1g.18gb", "MIG profile 1g.20gb",
    ]  # fmt: skip
    assert (found[0]["this GPU"], found[0]["simulated host"]) == ("132", "114")


GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"


async def test_it_lives_as_long_as_the_block_even_one_that_breaks(tmp_path: Path) -> None:
    program = str(write_program(tmp_path / "nvidia-cuda-mps-control"))
    async with mps(program, GPU) as lab:
        assert lab.process()
        env = dict(lab.client_env(25, 0))
        assert env["CUDA_MPS_PIPE_DIRECTORY"] == str(lab.pipe_dir)
        assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert not lab.process()
    assert not lab.folder.exists()
    with pytest.raises(ValueError, match="broken"):
        async with mps(program, GPU) as lab:
            raise ValueError("broken")
    assert not lab.process()
    assert not lab.folder.exists()


async def test_one_that_does_not_come_up_or_is_not_allowed_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for command in ("/bin/false", "/no/such/program"):
        with pytest.raises(MpsUnavailableError):
            async with mps(command, GPU):
                pytest.fail("it cannot be up")
    with pytest.raises(MpsUnavailableError, match="allow"):
        control_program(fake_cpu())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MpsUnavailableError, match="neither on PATH"):
        control_program(fake_gpus("h200-141gb")[0], near=())
