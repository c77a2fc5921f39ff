"""Starts and ends a control daemon, and ends what an earlier one left in its folder."""

import asyncio
import contextlib
import functools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import answers
from partitiond.devices.mps.processes import PROC, MpsProcess, control_of, servers_of
from partitiond.devices.mps.queries import INSTALL_HINT, ask, program_path
from partitiond.platform.process_identity import Identified, ProcessId, is_alive

START_SECONDS: Final = 20.0
"""Longest wait for a daemon to answer. A daemon touches no GPU until its first client comes."""
QUIT_SECONDS: Final = 15.0
"""Longest wait for the answer to `quit`, which gives servers `SERVER_GRACE_SECONDS`."""
GONE_SECONDS: Final = 2.0
"""Longest time between that answer and the end of the daemon's process."""
SERVER_GRACE_SECONDS: Final = 5
KILL_SECONDS: Final = 5.0
"""Longest wait for a signalled process to be gone."""
POLL_SECONDS: Final = 0.05
LOG_TAIL_BYTES: Final = 65_536


Ask = Callable[[Sequence[str], float], Awaitable[str]]
"""Sends commands to a daemon, and waits some seconds for its answer. Raises DeviceError."""


async def start(program: str, env: Mapping[str, str], folder: Path) -> ProcessId:
    """Start a daemon in the background and wait until it answers.

    Raises:
        DeviceError: the daemon does not come up; nothing of it is left.
    """
    said = folder / "log" / "start.log"
    deadline = time.monotonic() + START_SECONDS
    try:
        await _launched((program_path(program), "-d"), env, said, deadline)
        return await _until_it_answers(program, env, folder, deadline)
    except (DeviceError, TimeoutError) as error:
        words = answers.ailing_line(tail(said))
        words = words or answers.ailing_line(tail(folder / "log/control.log"))
        await end_leftovers(folder / "pipe")
        if isinstance(error, DeviceError) and not words:
            raise
        raise not_started(folder, words) from error


def not_started(folder: Path, words: str) -> DeviceError:
    """Return the error of a daemon that did not come up, with what it or its logs say."""
    return DeviceError(
        f"The MPS control daemon did not start: {words or 'it does not answer'}.",
        hint=f"Look into {folder}; check that no other MPS daemon holds this GPU and "
        "that its compute mode is not PROHIBITED.",
        facts={"folder": str(folder), "said": words},
    )


async def _launched(
    argv: Sequence[str], env: Mapping[str, str], said: Path, deadline: float
) -> None:
    """Run the program that starts a daemon in the background, and wait for its exit.

    The output goes to a file: a daemon that keeps an inherited pipe open would block this process.
    """
    try:
        with said.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise DeviceError(
            f"The MPS control program {argv[0]} cannot be run: {error.strerror}.",
            hint=INSTALL_HINT,
            facts={"program": argv[0], "errno": error.errno},
        ) from error
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise DeviceError(
            f"The MPS control program ended with status {status}.",
            hint=INSTALL_HINT,
            facts={"status": status},
        )


async def _until_it_answers(
    program: str, env: Mapping[str, str], folder: Path, deadline: float
) -> ProcessId:
    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
        while True:
            look = functools.partial(control_of, folder / "pipe")
            found = await PROC.look(f"the MPS daemon of {folder.name}", look)
            if found is not None:
                with contextlib.suppress(DeviceError):
                    await ask(program, env, ("get_server_list",))
                    return found.identity
            await asyncio.sleep(POLL_SECONDS)


async def ask_to_quit(ask: Ask, process: ProcessId, seconds: float) -> bool:
    """Ask a daemon and its servers to quit; return whether the process is gone some seconds later.

    The program answers once the daemon has ended. Without a time limit it would wait for clients
    for ever; drivers that do not know the limit get the plain command.
    """
    for command in (f"quit -t {SERVER_GRACE_SECONDS}", "quit"):
        with contextlib.suppress(DeviceError):  # a daemon that does not listen is ended anyway
            await ask((command,), QUIT_SECONDS)
        if await all_end((process,), seconds):
            return True
    return False


async def end_leftovers(pipe_dir: Path) -> None:
    """End the daemon and servers that still have this pipe folder, which must be ours.

    Raises:
        SilentError: /proc does not answer.
        DeviceError: a process survives SIGKILL: it hangs inside the driver.
    """
    subject = f"the MPS daemon of {pipe_dir.parent.name}"
    control = await PROC.look(subject, functools.partial(control_of, pipe_dir))
    servers = await PROC.look(
        subject, functools.partial(servers_of, pipe_dir, control.pid if control else None)
    )
    left: tuple[MpsProcess, ...] = (*((control,) if control else ()), *servers)
    await end(tuple(process.identity for process in left))


async def end(processes: Sequence[ProcessId]) -> None:
    """Terminate, then kill, exactly these processes. Returns once they are gone.

    Raises:
        DeviceError: a process survives SIGKILL: it hangs inside the driver.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if is_alive(process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
        if await all_end(processes, KILL_SECONDS):
            return
    raise unkillable([process.pid for process in processes if is_alive(process)])


def unkillable(pids: Sequence[int]) -> DeviceError:
    """Return the error of processes that survive SIGKILL."""
    return DeviceError(
        f"MPS processes {pids} do not end, even when killed.",
        hint="They hang inside the driver: check the kernel's log for Xid errors, then reset the "
        "GPU or reboot.",
        facts={"pids": pids},
    )


async def all_end(processes: Sequence[Identified], seconds: float) -> bool:
    """Whether all processes end within the time."""
    deadline = time.monotonic() + seconds
    while any(is_alive(process) for process in processes):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def tail(path: Path) -> str:
    """Return the end of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
