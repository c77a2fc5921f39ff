"""An MPS control daemon of our own: own pipe and log folders, ended with us.

Nothing on the GPU is changed: no compute mode, no clocks. Where the daemon does not come up, time
slices are what is left, and the reason is a result.
"""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.hardware import Device, SharingMode

CONTROL: Final = "nvidia-cuda-mps-control"
UP_SECONDS: Final = 10.0
QUIT_SECONDS: Final = 10.0


class MpsUnavailableError(Exception):
    """MPS cannot be used here; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class MpsDaemon:
    """A running control daemon.

    Attributes:
        pipe_dir: CUDA_MPS_PIPE_DIRECTORY of its clients.
    """

    pipe_dir: Path

    def client_env(self, sm_percent: int | None = None) -> tuple[tuple[str, str], ...]:
        """Environment of an engine under it; a percentage caps its SMs, it reserves none."""
        env = [("CUDA_MPS_PIPE_DIRECTORY", str(self.pipe_dir))]
        if sm_percent is not None:
            env.append(("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", str(sm_percent)))
        return tuple(env)


def control_command(device: Device) -> tuple[str, ...]:
    """How to call the control program. Raises MpsUnavailableError."""
    if SharingMode.MPS not in device.modes:
        raise MpsUnavailableError("this device does not allow MPS (MIG may be on)")
    found = shutil.which(CONTROL)
    if found is None:
        raise MpsUnavailableError(f"{CONTROL} is not installed")
    return (found,)


@contextlib.asynccontextmanager
async def mps(command: Sequence[str], device_index: int) -> AsyncIterator[MpsDaemon]:
    """A daemon for one GPU; quits, and is ended, when the block does.

    Raises:
        MpsUnavailableError: it did not come up.
    """
    # A socket's path may have 107 bytes: below the system's own folder for temporary files.
    folder = Path(tempfile.mkdtemp(prefix="pd-mps-"))
    pipe_dir, log_dir = folder / "pipe", folder / "log"
    pipe_dir.mkdir()
    log_dir.mkdir()
    env = {
        **os.environ,
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe_dir),
        "CUDA_MPS_LOG_DIRECTORY": str(log_dir),
        "CUDA_VISIBLE_DEVICES": str(device_index),
    }
    try:
        process = await _started(command, env)
        try:
            await _until_up(process, pipe_dir, log_dir)
            yield MpsDaemon(pipe_dir)
        finally:
            await _quit(command, env, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _started(command: Sequence[str], env: dict[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            "-f",
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise MpsUnavailableError(f"{command[0]} cannot be run: {error.strerror}") from error


async def _until_up(process: asyncio.subprocess.Process, pipe_dir: Path, log_dir: Path) -> None:
    """It is up once its control pipe is there."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UP_SECONDS):
            while process.returncode is None:
                if (pipe_dir / "control").exists():
                    return
                await asyncio.sleep(0.05)
    said = _last_line(log_dir / "control.log")
    ended = "ended" if process.returncode is not None else f"was not up after {UP_SECONDS:g} s"
    raise MpsUnavailableError(f"the control daemon {ended}{said}")


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines:
            return f": {lines[-1][:200]}"
    return ""


async def _quit(
    command: Sequence[str], env: dict[str, str], process: asyncio.subprocess.Process
) -> None:
    """Ask it to quit, which ends its server, too; then end it."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(QUIT_SECONDS):
            if process.returncode is None:
                asking = await asyncio.create_subprocess_exec(
                    *command,
                    env=env,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                try:
                    await asking.communicate(b"quit\n")
                finally:
                    if asking.returncode is None:
                        asking.kill()
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
