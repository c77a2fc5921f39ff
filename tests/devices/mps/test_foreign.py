"""Foreign MPS daemons on this host are seen, judged, and never touched."""

import asyncio
import os
from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.devices.mps import MpsControl, compute_mode_refusal
from partitiond.devices.mps.foreign import foreign
from partitiond.devices.mps.processes import MpsProcess, Program
from partitiond.platform.process_identity import ProcessId
from partitiond.simulated.gpus.mps_control import write_program
from tests.machine import signal_all

MPS = Path("/run/partitiond/mps")


def process(
    pid: int,
    program: Program,
    pipe_dir: str | None,
    *,
    parent: int = 1,
    readable: bool = True,
) -> MpsProcess:
    return MpsProcess(
        ProcessId(pid, 1, "boot"),
        program,
        parent,
        0,
        Path(pipe_dir) if pipe_dir else None,
        readable,
        "",
    )


def test_ours_are_left_out_by_folder_or_by_parent() -> None:
    ours = process(10, Program.CONTROL, "/run/partitiond/mps/3c5a1b2d/pipe")
    server = process(11, Program.SERVER, None, parent=10, readable=False)
    assert foreign([ours, server], MPS) == ()


@pytest.mark.parametrize("pipe", [None, "/tmp/nvidia-mps", "/run/nvidia-mps"])
def test_one_in_the_default_folder_takes_programs_that_are_told_nothing(pipe: str | None) -> None:
    (found,) = foreign([process(10, Program.CONTROL, pipe)], MPS)
    assert found.default
    assert "default pipe folder" in found.meaning
    assert "echo quit | nvidia-cuda-mps-control" in found.meaning


def test_one_elsewhere_says_how_to_reach_it() -> None:
    (found,) = foreign([process(10, Program.CONTROL, "/srv/mps")], MPS)
    assert not found.default
    assert "CUDA_MPS_PIPE_DIRECTORY=/srv/mps" in found.meaning


def test_a_server_whose_environment_is_hidden_is_somebody_elses() -> None:
    (found,) = foreign([process(10, Program.SERVER, None, parent=9, readable=False)], MPS)
    assert found.pipe_dir is None
    assert not found.default
    assert "EXCLUSIVE_PROCESS" in found.meaning


async def test_an_operators_daemon_is_found_and_survives_ours(tmp_path: Path) -> None:
    program = write_program(tmp_path / "bin" / "nvidia-cuda-mps-control")
    pipe = tmp_path / "theirs"
    env = {
        **os.environ,
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
        "CUDA_MPS_LOG_DIRECTORY": str(tmp_path / "log"),
    }
    starting = await asyncio.create_subprocess_exec(program, "-d", env=env)
    assert await starting.wait() == 0
    control = MpsControl(tmp_path / "r", str(program))
    daemon = control.daemon("GPU-3c5a1b2d-0000-0000-0000-000000000001")
    theirs = [found for found in control.foreign() if found.pipe_dir == pipe]
    try:
        await daemon.ensure()
        assert [found.program for found in theirs] == ["nvidia-cuda-mps-control"]
        assert not {found.pid for found in control.foreign()} & set(daemon.pids())
        await daemon.quit()
        assert theirs[0].pid in {found.pid for found in control.foreign()}
    finally:
        signal_all([*(found.pid for found in theirs), *daemon.pids()])


@pytest.mark.parametrize(
    ("mode", "sharing", "word"),
    [
        (0, SharingMode.MEMORY, ""),
        (0, SharingMode.MPS, ""),
        (2, SharingMode.MPS, "PROHIBITED"),
        (2, SharingMode.WHOLE, "PROHIBITED"),
        (3, SharingMode.MPS, ""),
        (3, SharingMode.WHOLE, ""),
        (3, SharingMode.MEMORY, "EXCLUSIVE_PROCESS"),
    ],
)
def test_a_compute_mode_leaves_some_ways_of_sharing(
    mode: int, sharing: SharingMode, word: str
) -> None:
    refusal = compute_mode_refusal(mode, sharing)
    assert (word in refusal) if word else not refusal
    assert not word or "nvidia-smi -c DEFAULT" in refusal
