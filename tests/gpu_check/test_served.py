"""The daemon's steps derive their results from observations, without a daemon."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu_check.command_line import adapted
from bench.gpu_check.engine_python import with_folder
from bench.gpu_check.mps import MpsUnavailableError, control_program, mps
from bench.gpu_check.served import Left, _split, missing_packages
from bench.gpu_check.steps.contract import outcome_of
from bench.gpu_check.steps.killed import Seen
from partitiond.core.errors import EngineUnavailableError
from partitiond.devices.fake import fake_cpu, fake_gpus
from partitiond.engines.install.environment import read_environment
from partitiond.simulated.gpus.mps_program import write_program


def test_requests_are_divided_evenly_and_every_worker_has_one() -> None:
    for total, parts in ((512, 8), (5, 2), (1, 3), (0, 1)):
        shares = _split(total, parts)
        assert len(shares) == parts
        assert sum(shares) == max(total, parts)
        assert max(shares) - min(shares) <= 1 <= min(shares)
    assert missing_packages() == [], "this environment can run a daemon"
    assert [Left(*left).nothing for left in ((0, 0), (1, 0), (0, 1))] == [True, False, False]


def test_what_was_seen_becomes_figures_and_tables() -> None:
    seen = Seen(good=[1.0, 9.0, 2.0, 9.5, 14.0])
    assert seen.gap_after(8.0) == pytest.approx(4.5)
    assert seen.gap_after(2.5) == pytest.approx(6.5)
    assert seen.gap_after(20.0) is None
    text = (
        "tests/contract/test_mps_contract.py::test_a[real] PASSED     [ 50%]\n"
        "tests/contract/test_mps_contract.py::test_b[real] FAILED     [100%]\n"
        "=== 1 failed, 1 passed ===\n"
    )
    data = outcome_of(text, 1).data
    assert [row["outcome"] for row in data["rows"]] == ["passed", "failed"]
    assert data["failed"] == 1
    assert "2 tests, 1 failed." in data["notes"]
    broken = outcome_of("ImportError: no module\n", 2).data
    assert "ImportError" in broken["notes"][1]


COMMAND: dict[str, Any] = {
    "argv": [
        "/env/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--uds", "engine.sock",
        "--model", "/models/m", "--served-model-name", "m", "--kv-cache-memory-bytes", "1000",
        "--max-num-seqs", "8",
    ],
    "env": {"CUDA_VISIBLE_DEVICES": "GPU-abc", "HOME": "/run", "PATH": "/usr/bin"},
    "cores": [0, 1],
}  # fmt: skip


def test_commands_name_the_device_and_change_with_what_is_asked_for() -> None:
    changed = adapted(COMMAND, device_index=3)
    assert changed["env"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert changed["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (changed["argv"], changed["cores"]) == (COMMAND["argv"], [0, 1])
    assert COMMAND["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    argv = adapted(COMMAND, device_index=0, api_servers=4)["argv"]
    assert argv[:5] == [
        "/env/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/models/m",
    ]  # fmt: skip
    assert "--model" not in argv
    assert argv[-2:] == ["--api-server-count", "4"]
    assert {"--uds", "--served-model-name", "--kv-cache-memory-bytes"} <= set(argv)
    limits = ["--max-model-len", "960", "--gpu-memory-utilization=0.5", "--dtype", "float16"]
    command = {**COMMAND, "argv": [*COMMAND["argv"], *limits]}
    argv = adapted(command, device_index=0, defaults=True)["argv"]
    assert not {"--max-num-seqs", "--kv-cache-memory-bytes", *limits[:3]} & set(argv), "no limits"
    assert argv[4] == "/models/m"
    assert argv[-2:] == ["--dtype", "float16"]


def test_libraries_and_compilers_are_found_where_this_process_finds_them() -> None:
    here = {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64", "PATH": "/opt/cuda/bin", "SECRET": "x"}
    env = adapted(COMMAND, device_index=0, inherited=here, cache_dir="/cache")["env"]
    assert env["CUDA_CACHE_PATH"].startswith("/cache/")
    assert env["FLASHINFER_WORKSPACE_BASE"].startswith("/cache/")
    assert (env["LD_LIBRARY_PATH"], env["PATH"]) == (here["LD_LIBRARY_PATH"], here["PATH"])
    assert "SECRET" not in env
    assert env["HOME"] == "/run"


def fake_vllm(folder: Path) -> Path:
    info = folder / "vllm-0.22.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.22.0\n")
    return folder


def test_its_packages_are_seen_in_isolated_mode_and_so_are_the_interpreters(
    tmp_path: Path,
) -> None:
    target = fake_vllm(tmp_path / "with space" / "packages")
    python = with_folder(Path(sys.executable), target, tmp_path / "env")
    found = read_environment(python)
    assert found is not None
    assert (found.version, found.variant) == ("0.22.0", "cuda")
    again = with_folder(Path(sys.executable), target, tmp_path / "env")
    assert again == python
    subprocess.run([str(python), "-I", "-c", "import pydantic, numpy"], check=True)


def test_a_folder_or_a_python_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        with_folder(Path(sys.executable), tmp_path / "nothing", tmp_path / "env")
    assert "--target" in caught.value.hint
    target = fake_vllm(tmp_path / "packages")
    for python in (Path("/bin/false"), tmp_path / "nothing"):
        with pytest.raises(EngineUnavailableError):
            with_folder(python, target, tmp_path / "env")


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
