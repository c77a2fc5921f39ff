"""Sends commands to the control daemon by running the control program once per query.

The program reads commands from standard input and prints the answers, including errors of a
command, to its output. Its exit status is not 0 if no daemon answers.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.errors import DeviceError

ASK_SECONDS: Final = 10.0
"""Longest wait for an answer. A daemon answers within milliseconds, if it answers at all."""

INSTALL_HINT: Final = (
    "Install the driver's compute utilities (nvidia-compute-utils, or nvidia-driver-cuda), "
    "set gpu.mps_control to the program's path, or plan without MPS shares."
)


def program_path(program: str) -> str:
    """Return the program's path. Raises DeviceError if the program is not installed."""
    found = shutil.which(program)
    if found is None:
        raise DeviceError(
            f"The MPS control program {program} is not installed.",
            hint=INSTALL_HINT,
            facts={"program": program},
        )
    return found


async def ask(
    program: str,
    env: Mapping[str, str],
    commands: Sequence[str],
    seconds: float | None = None,
) -> str:
    """Send commands to the daemon of the environment's pipe folder; return its answer.

    Args:
        seconds: longest wait; None is `ASK_SECONDS`.

    Raises:
        DeviceError: there is no program, no daemon, or no answer in time.
    """
    command = "; ".join(commands)
    seconds = ASK_SECONDS if seconds is None else seconds
    process = await _spawned(program, env)
    try:
        async with asyncio.timeout(seconds):
            text = "".join(f"{line}\n" for line in commands).encode()
            output, complaints = await process.communicate(text)
    except TimeoutError as error:
        raise too_late(command, seconds) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await _closed(process)
    said, complained = output.decode(errors="replace"), complaints.decode(errors="replace")
    return answer_of(command, process.returncode or 0, said, complained)


def answer_of(command: str, status: int, said: str, complaints: str) -> str:
    """Return what the control program printed.

    Raises:
        DeviceError: its exit status says that no daemon answered.
    """
    words = said.strip()
    if status != 0:
        words = words or complaints.strip()
        raise DeviceError(
            f"The MPS control daemon could not be asked {command!r}: "
            f"{words or f'exit status {status}'}.",
            hint="Look into control.log of its log folder.",
            facts={"command": command, "status": status, "said": words},
        )
    return words


def too_late(command: str, seconds: float) -> DeviceError:
    """Return the error of a daemon that does not answer."""
    return DeviceError(
        f"The MPS control daemon did not answer {command!r} within {seconds:g} s.",
        hint="Look into control.log of its log folder. If it stays so, stop the engines of "
        "this GPU, then the daemon.",
        facts={"command": command, "seconds": seconds},
    )


async def _closed(process: asyncio.subprocess.Process) -> None:
    """Read the pipes to their end, which closes them; a child process may hold them for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await process.communicate()


async def _spawned(program: str, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            program_path(program),
            env=dict(env),
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise DeviceError(
            f"The MPS control program {program} cannot be run: {error.strerror}.",
            hint=INSTALL_HINT,
            facts={"program": program, "errno": error.errno},
        ) from error
