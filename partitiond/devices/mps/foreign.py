"""Describes MPS daemons and servers that are not ours, and what they mean for engines here."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Final

from partitiond.devices.mps.processes import MpsProcess, Program

DEFAULT_PIPE_DIRS: Final = (Path("/tmp/nvidia-mps"), Path("/run/nvidia-mps"))  # noqa: S108
"""Default pipe folders of CUDA programs; the second is for root's daemon with protocol 3."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignMps:
    """An MPS process that is not ours.

    Attributes:
        program: nvidia-cuda-mps-control or nvidia-cuda-mps-server.
        pipe_dir: its pipe folder; None if its environment may not be read.
        visible_devices: GPUs that it was limited to; empty for all, or if that may not be read.
        default: whether programs without MPS variables become its clients.
        meaning: its effect on engines here, and what to do about it.
    """

    pid: int
    program: str
    uid: int
    pipe_dir: Path | None
    visible_devices: str
    default: bool
    meaning: str


def own_pids(processes: Collection[MpsProcess], mps_dir: Path) -> frozenset[int]:
    """Return pids of the processes that belong to a folder below mps_dir.

    A server whose environment names no folder is judged by its parent: daemons start servers.
    """
    told = {
        process.pid
        for process in processes
        if process.pipe_dir is not None and process.pipe_dir.is_relative_to(mps_dir)
    }
    untold = {
        process.pid for process in processes if process.pipe_dir is None and process.parent in told
    }
    return frozenset(told | untold)


def foreign(processes: Collection[MpsProcess], mps_dir: Path) -> tuple[ForeignMps, ...]:
    """Return the processes that are not ours, each with its meaning for engines here."""
    ours = own_pids(processes, mps_dir)
    return tuple(_described(process) for process in processes if process.pid not in ours)


def _described(process: MpsProcess) -> ForeignMps:
    default = process.readable and process.pipe_dir in (None, *DEFAULT_PIPE_DIRS)
    pipe_dir = process.pipe_dir or (DEFAULT_PIPE_DIRS[0] if process.readable else None)
    return ForeignMps(
        process.pid,
        process.program.value,
        process.uid,
        pipe_dir,
        process.visible_devices,
        default,
        _meaning(process.program, default=default, pipe_dir=pipe_dir),
    )


def _meaning(program: Program, *, default: bool, pipe_dir: Path | None) -> str:
    where = f"CUDA_MPS_PIPE_DIRECTORY={pipe_dir} " if pipe_dir and not default else ""
    quit_words = f"echo quit | {where}nvidia-cuda-mps-control"
    if program is Program.SERVER:
        return (
            "An MPS server that is not ours holds GPUs of this host. Its memory and SMs count as "
            "somebody else's; on a GPU in compute mode EXCLUSIVE_PROCESS no engine can start "
            f"beside it. To be rid of it, end its clients, then: {quit_words}"
        )
    if default:
        return (
            "An MPS control daemon that is not ours listens in the default pipe folder. Every CUDA "
            "program that is told nothing becomes its client, with its limits and its faults. "
            "Engines of ours are told another folder, so they do not; shares of ours and of its "
            f"clients on one GPU compete without a cap between them. To be rid of it: {quit_words}"
        )
    return (
        "An MPS control daemon that is not ours runs here. It takes no engine of ours; its clients "
        f"compete with them on the GPUs it serves. To be rid of it: {quit_words}"
    )
