"""Finds control daemons and servers among this host's processes, by name and environment.

The name in /proc/PID/comm is cut to 15 bytes, "nvidia-cuda-mps", and does not distinguish the two
programs; the command line and the program's file do.
"""

import contextlib
import dataclasses
import enum
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from partitiond.devices.mps.environment import PIPE
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.platform.process_identity import ProcessId, boot_id, environment, start_ticks

CONTROL_NAME: Final = "nvidia-cuda-mps-control"
SERVER_NAME: Final = "nvidia-cuda-mps-server"
PID_FILE: Final = f"{CONTROL_NAME}.pid"
"""File that the control daemon writes into its pipe folder; drivers before 470 write none."""


PROC: Final = DeadlineCalls()
"""Looks at /proc: all of it is read to find the processes, and reading the environment of a process
that is stuck in the kernel may block."""


class Program(enum.Enum):
    """The two programs of MPS."""

    CONTROL = CONTROL_NAME
    SERVER = SERVER_NAME


@dataclasses.dataclass(frozen=True, slots=True)
class MpsProcess:
    """A control daemon or a server.

    Attributes:
        parent: pid of the parent; the parent of a server is its control daemon.
        uid: user id of the process.
        pipe_dir: pipe folder in its environment; None if that is unreadable or names none.
        readable: whether its environment could be read.
        visible_devices: CUDA_VISIBLE_DEVICES in its environment.
    """

    identity: ProcessId
    program: Program
    parent: int
    uid: int
    pipe_dir: Path | None
    readable: bool
    visible_devices: str

    @property
    def pid(self) -> int:
        """Process id."""
        return self.identity.pid


def mps_processes() -> tuple[MpsProcess, ...]:
    """Return all MPS processes of this host (of this PID namespace), of any user."""
    return tuple(described(_pids()))


def described(pids: Iterable[int]) -> list[MpsProcess]:
    """Return those of these processes that are MPS's."""
    boot = boot_id()
    return [found for pid in pids if (found := _process(pid, boot)) is not None]


def _pids() -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def _process(pid: int, boot: str) -> MpsProcess | None:
    folder = Path(f"/proc/{pid}")
    try:
        argv = folder.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        program = _program(argv)
        if program is None:
            return None
        parent = int(folder.joinpath("stat").read_bytes().rpartition(b")")[2].split()[1])
        uid = folder.stat().st_uid
    except OSError:  # the process has ended
        return None
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    env = _environment(pid)
    pipe = (env or {}).get(PIPE)
    return MpsProcess(
        ProcessId(pid, ticks, boot),
        program,
        parent,
        uid,
        Path(pipe) if pipe else None,
        env is not None,
        (env or {}).get("CUDA_VISIBLE_DEVICES", ""),
    )


def _program(argv: list[bytes]) -> Program | None:
    """Return the MPS program; None for others, and for queries (control program, no options)."""
    name = Path(os.fsdecode(argv[0])).name
    if name not in (CONTROL_NAME, SERVER_NAME):
        return None
    if name == CONTROL_NAME and not any(word.startswith(b"-") for word in argv[1:]):
        return None
    return Program(name)


def _environment(pid: int) -> dict[str, str] | None:
    """Return a process's environment as of its start; None if it may not be read."""
    words: list[bytes] = []
    with contextlib.suppress(OSError):
        words = environment(pid)
    pairs = (os.fsdecode(word).partition("=") for word in words if b"=" in word)
    return {name: value for name, _, value in pairs} if words else None


def control_of(pipe_dir: Path) -> MpsProcess | None:
    """Return the control daemon of a pipe folder of ours.

    The pid file decides if there is one: while a daemon goes to the background there are two
    processes for a moment, and the environment of a non-dumpable process may not be read.
    """
    written = _written_pid(pipe_dir)
    ours = [
        process
        for process in mps_processes()
        if process.program is Program.CONTROL
        and (process.pipe_dir == pipe_dir or (not process.readable and process.pid == written))
    ]
    named = [process for process in ours if process.pid == written]
    newest = sorted(ours, key=lambda process: process.identity.start_ticks)
    return next(iter((*named, *reversed(newest))), None)


def servers_of(pipe_dir: Path, control_pid: int | None) -> tuple[MpsProcess, ...]:
    """Return servers of a pipe folder: by environment or, if that does not tell, by parent."""
    return tuple(
        process
        for process in mps_processes()
        if process.program is Program.SERVER
        and (
            process.pipe_dir == pipe_dir
            or (process.pipe_dir is None and process.parent == control_pid)
        )
    )


def _written_pid(pipe_dir: Path) -> int | None:
    try:
        return int(pipe_dir.joinpath(PID_FILE).read_text())
    except (OSError, ValueError):
        return None
