"""Runs a program that is no engine as the users of engines, supervised as their engines are.

The shim of such a program runs as our user and outlives the daemon; a folder keeps its files, as a
run folder keeps an engine's.
"""

import asyncio
import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import DeviceError, InputError, StartFailedError
from partitiond.core.model.isolation_group import of_group
from partitiond.engines.process import shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.engine_user import mps_launcher
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.spawn import kill_all, spawn_shim
from partitiond.platform.process_identity import ProcessId, is_alive

FILES: Final = ("command.json", "process.json", "exit.json", "memory.json", "engine.sock")
"""Files of an earlier supervisor, which must not be taken for the next one's."""
LOG_BYTES: Final = 8192


class KeptPrograms:
    """Starts, finds and ends programs at the sockets beside that of the engines.

    Args:
        launcher: the setting `engine.launcher`; None where engines run as our user.
    """

    def __init__(self, launcher: Path | None) -> None:
        self._launcher = launcher

    def launcher(self, group: str) -> Path | None:
        """Return the socket at which programs of this isolation group that share a GPU under MPS
        are started; None if this host was set up without it, so that they run as our user.

        Raises:
            DeviceError: this host was not set up for the group, which never runs as our user.
        """
        if self._launcher is None:
            return None
        found = mps_launcher(self._launcher.with_stem(of_group(self._launcher.stem, group)))
        if found.is_socket():
            return found
        if group:
            raise DeviceError(
                f"this host has no isolation group {group}: there is no socket {found}.",
                hint=f"Set it up: `sudo partitiond setup --gpu --isolation-group {group} --apply`.",
                facts={"isolation_group": group},
            )
        return None

    async def start(
        self, folder: Path, launcher: Path, argv: Sequence[str], env: Mapping[str, str]
    ) -> None:
        """Start a program. Raises DeviceError, and leaves nothing of it then."""
        cores = sorted(os.sched_getaffinity(0))
        command = {"argv": list(argv), "cores": cores, "cwd": "/", "launcher": str(launcher)}
        command["env"] = {**env, process.REPLICA_DIR_VARIABLE: str(folder)}
        try:
            await asyncio.to_thread(_write, folder, command)
            await spawn_shim(RunFolder(folder))
        except StartFailedError as error:
            await self.end(folder)
            raise DeviceError(error.message, hint=error.hint, facts=error.facts) from error
        except OSError as error:
            raise DeviceError(
                f"The folder {folder} cannot be written: {error.strerror}.",
                hint="Give this user write access to run_dir.",
                facts={"folder": str(folder), "errno": error.errno},
            ) from error

    def process(self, folder: Path) -> ProcessId | None:
        """Return the supervisor of the folder's program, alive or not; None if it never ran. Reads
        /proc: without its record the living process is asked.
        """
        return RunFolder(folder).leader()

    def pids(self, folder: Path) -> Collection[int] | None:
        """Return the living processes of the folder's program: those of its cgroup, which its
        record names; None if it runs and its record cannot be read.

        Without a cgroup, as in tests, they are told by their environment.
        """
        record, leader = None, self.process(folder)
        with contextlib.suppress(InputError):
            record = process.recorded(folder)
        if record is None and leader is not None and is_alive(leader):
            return None
        cgroup = "" if record is None else record.current_cgroup()
        return shim.cgroup_pids(cgroup) if cgroup else process.processes_of(folder, leader, "")

    async def end(self, folder: Path) -> Collection[int]:
        """Kill all of the folder's processes; return the pids of those that outlive it.

        Raises:
            SilentError: /proc does not answer.
        """
        return await kill_all(RunFolder(folder))

    def log(self, folder: Path) -> str:
        """Return the end of what the program printed."""
        return shim.read_text(str(folder / "engine.log"))[-LOG_BYTES:]


def _write(folder: Path, command: dict[str, Any]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in FILES:
        folder.joinpath(name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        folder.joinpath("engine.log").replace(folder / "engine.old")
    shim.write_json(str(folder / "command.json"), command)
