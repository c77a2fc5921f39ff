"""Foreign MPS daemons on this host are seen, judged, and never touched."""

import asyncio
import os
from pathlib import Path

from partitiond.core.hardware.kinds import SharingMode
from partitiond.devices.mps import compute_mode_refusal
from partitiond.devices.mps.foreign import foreign
from partitiond.devices.mps.processes import MpsProcess, Program
from partitiond.platform.process_identity import ProcessId
from tests.devices.mps.clients import GPU, control_in
from tests.machine import signal_all

MPS = Path("/run/partitiond/mps")


def process(
    pid: int, program: Program, pipe_dir: str | None, parent: int = 1, *, readable: bool = True
) -> MpsProcess:
    folder = Path(pipe_dir) if pipe_dir else None
    return MpsProcess(ProcessId(pid, 1, "boot"), program, parent, 0, folder, readable, "")


def test_ours_are_left_out_by_folder_or_by_parent() -> None:
    ours = process(10, Program.CONTROL, "/run/partitiond/mps/3c5a1b2d/pipe")
    server = process(11, Program.SERVER, None, parent=10, readable=False)
    assert foreign([ours, server], MPS) == ()


QUIT = "echo quit | nvidia-cuda-mps-control"


def test_others_say_how_to_reach_them_and_whom_they_take_in() -> None:
    for found, default, words in (
        (process(10, Program.CONTROL, None), True, QUIT),
        (process(10, Program.CONTROL, "/tmp/nvidia-mps"), True, "default pipe folder"),
        (process(10, Program.CONTROL, "/run/nvidia-mps"), True, QUIT),
        (process(10, Program.CONTROL, "/srv/mps"), False, "CUDA_MPS_PIPE_DIRECTORY=/srv/mps"),
        # A server whose environment is hidden.
        (process(10, Program.SERVER, None, 9, readable=False), False, "EXCLUSIVE_PROCESS"),
    ):
        (judged,) = foreign([found], MPS)
        assert judged.default is default
        assert words in judged.meaning


async def test_an_operators_daemon_is_found_and_survives_ours(tmp_path: Path, program: str) -> None:
    pipe = tmp_path / "theirs"
    folders = {"CUDA_MPS_PIPE_DIRECTORY": pipe, "CUDA_MPS_LOG_DIRECTORY": tmp_path / "log"}
    env = os.environ | {name: str(folder) for name, folder in folders.items()}
    starting = await asyncio.create_subprocess_exec(program, "-d", env=env)
    assert await starting.wait() == 0
    control = control_in(tmp_path, program)
    daemon = control.daemon(GPU)
    theirs = [found for found in control.foreign() if found.pipe_dir == pipe]
    try:
        await daemon.ensure()
        assert [found.program for found in theirs] == ["nvidia-cuda-mps-control"]
        assert not {found.pid for found in control.foreign()} & set(daemon.pids())
        await daemon.quit()
        assert theirs[0].pid in {found.pid for found in control.foreign()}
    finally:
        signal_all([*(found.pid for found in theirs), *daemon.pids()])


def test_a_compute_mode_leaves_some_ways_of_sharing() -> None:
    for mode, sharing, word in (
        (0, SharingMode.MEMORY, ""),
        (0, SharingMode.MPS, ""),
        (2, SharingMode.MPS, "PROHIBITED"),
        (2, SharingMode.WHOLE, "PROHIBITED"),
        (3, SharingMode.MPS, ""),
        (3, SharingMode.WHOLE, ""),
        (3, SharingMode.MEMORY, "EXCLUSIVE_PROCESS"),
    ):
        refusal = compute_mode_refusal(mode, sharing)
        assert (word in refusal) if word else not refusal
        assert not word or "nvidia-smi -c DEFAULT" in refusal
