"""Reaches a control daemon that runs as the engines' user, through its keeper (`keeper`).

    /run/partitiond-mps/<folder>/pipe/, log/       seen by that user alone, made by the keeper
    <run_dir>/mps/<folder>/                        record, and the files of its supervisor
                           engine.sock             leads to where the keeper listens

Nothing that the other user can write is opened here: what it says comes over the socket, as text of
a bounded size. And nothing of it is signalled by its pid: the kernel kills its cgroup.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import answers, keeper, lifecycle
from partitiond.devices.mps.environment import daemon_env
from partitiond.devices.mps.processes import PROC, MpsProcess, Program, described
from partitiond.devices.mps.queries import ASK_SECONDS, answer_of, program_path, too_late
from partitiond.platform.process_identity import ProcessId, is_alive
from partitiond.platform.unix_socket import socket_address

MOST_ANSWER_BYTES: Final = 12 * keeper.MAX_SAID_BYTES + 4096
"""JSON writes a byte of text as six at most, and an answer has two texts."""
SPARE_SECONDS: Final = 2.0
"""Beyond the time that the control program has: the keeper ends it, and tells."""
GONE_SECONDS: Final = 6.0
"""Longest time from the answer to `quit` to the end of the supervisor, which waits for the rest."""
INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""Of our environment another user's program gets no more: the rest may hold secrets."""


class Keepers(Protocol):
    """Runs programs as the users of engines, each under a supervisor of ours."""

    def launcher(self, group: str) -> Path | None:
        """Return the socket at which programs of this isolation group are started; None if they
        run as our user on this host. Raises DeviceError: they run nowhere on this host.
        """
        ...

    async def start(
        self, folder: Path, launcher: Path, argv: Sequence[str], env: Mapping[str, str]
    ) -> None:
        """Start a program; `folder` keeps the files of its supervisor. Raises DeviceError."""
        ...

    def process(self, folder: Path) -> ProcessId | None:
        """Return the supervisor of the folder's program, alive or not; None if it never ran."""
        ...

    def pids(self, folder: Path) -> Collection[int] | None:
        """Return the living processes of the folder's program; None while they are not known."""
        ...

    async def end(self, folder: Path) -> Collection[int]:
        """Kill all of the folder's processes; return the pids of those that outlive it."""
        ...

    def log(self, folder: Path) -> str:
        """Return the end of what the program printed."""
        ...


def shared_folder(launcher: Path) -> Path:
    """Return the folder that programs started at this socket share: `/run/partitiond-mps` for
    `/run/partitiond-mps.sock`, as the unit says.
    """
    return launcher.with_suffix("")


class KeptMps:
    """One GPU's control daemon of another user; see `direct.DirectMps` for the same of ours."""

    def __init__(
        self, uuid: str, folder: Path, program: str, launcher: Path, keepers: Keepers
    ) -> None:
        self._uuid = uuid
        self._folder = folder
        self._program = program
        self._launcher = launcher
        self._keepers = keepers
        self.pipe_dir = shared_folder(launcher) / folder.name / "pipe"
        self.log_dir = shared_folder(launcher) / folder.name / "log"

    def process(self) -> ProcessId | None:
        """Return the supervisor's process, which ends with the daemon; None if it does not run."""
        found = self._keepers.process(self._folder)
        return found if found is not None and is_alive(found) else None

    def servers(self) -> tuple[MpsProcess, ...] | None:
        """Return the daemon's servers; None while they are not known."""
        pids = self._keepers.pids(self._folder)
        if pids is None:
            return None
        return tuple(one for one in described(pids) if one.program is Program.SERVER)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the daemon and its servers."""
        own = described(self._keepers.pids(self._folder) or ())
        return tuple(one.pid for one in sorted(own, key=lambda one: one.program.value))

    async def ask(self, commands: Sequence[str], seconds: float | None = None) -> str:
        """Send commands; return the answer. Raises DeviceError."""
        seconds = ASK_SECONDS if seconds is None else seconds
        question = {"version": keeper.VERSION, "commands": list(commands), "seconds": seconds}
        return self._understood("; ".join(commands), await self._asked(question, seconds), seconds)

    async def log(self, name: str) -> str:
        """Return the end of one of the daemon's logs; empty if it cannot be had."""
        try:
            answer = await self._asked({"version": keeper.VERSION, "log": name}, ASK_SECONDS)
        except DeviceError:
            return ""
        said = answer.get("said")
        return said if isinstance(said, str) else ""

    async def _asked(self, question: Mapping[str, object], seconds: float) -> dict[str, Any]:
        command = str(question.get("log") or "; ".join(map(str, question.get("commands", ()))))  # type: ignore[call-overload]
        path = self._folder / keeper.SOCKET
        try:
            async with asyncio.timeout(seconds + SPARE_SECONDS):
                with socket_address(str(path)) as address:
                    reader, writer = await asyncio.open_unix_connection(address)
                try:
                    writer.write(json.dumps(question).encode() + b"\n")
                    await writer.drain()
                    data = await _read(reader)
                finally:
                    writer.transport.abort()
        except TimeoutError as error:
            raise too_late(command, seconds) from error
        except OSError as error:
            raise DeviceError(
                f"The MPS control daemon of {self._uuid} cannot be asked {command!r}: "
                f"nothing answers at {path}.",
                hint=f"Look into {self._folder / 'engine.log'}.",
                facts={"command": command, "socket": str(path)},
            ) from error
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _nonsense(command)
        return answer

    def _understood(self, command: str, answer: Mapping[str, Any], seconds: float) -> str:
        if answer.get("late") is True:
            raise too_late(command, seconds)
        status, said = answer.get("status"), answer.get("said")
        complaints = answer.get("complaints")
        if type(status) is int and isinstance(said, str) and isinstance(complaints, str):
            return answer_of(command, status, said, complaints)
        raise _nonsense(command, str(answer.get("refused", "")))

    async def prepare(self) -> None:
        """Leave nothing of an earlier daemon. Raises DeviceError."""
        await self.end_leftovers()

    async def start(self) -> ProcessId:
        """Start the daemon and wait until it answers.

        Raises:
            DeviceError: the daemon does not come up; nothing of it is left.
        """
        keeping = [sys.executable, "-I", "-S", keeper.__file__, program_path(self._program)]
        await self._keepers.start(self._folder, self._launcher, keeping, self._env())
        try:
            return await self._until_it_answers()
        except (DeviceError, TimeoutError) as error:
            why = answers.ailing_line(self._keepers.log(self._folder))
            await self.end_leftovers()
            raise lifecycle.not_started(self._folder, why) from error

    async def _until_it_answers(self) -> ProcessId:
        problem = DeviceError("it ended at once.")
        deadline = time.monotonic() + lifecycle.START_SECONDS
        subject = f"the MPS daemon of {self._folder.name}"
        while (process := await PROC.look(subject, self.process)) and time.monotonic() < deadline:
            try:
                await self.ask(("get_server_list",), max(0.1, deadline - time.monotonic()))
            except DeviceError as error:
                problem = error
                await asyncio.sleep(lifecycle.POLL_SECONDS)
            else:
                return process
        raise problem

    async def quit(self, process: ProcessId) -> None:
        """Ask the daemon and its servers to quit; else end them. Returns once they are gone."""
        await lifecycle.ask_to_quit(self.ask, process, GONE_SECONDS)
        await self.end_leftovers()

    async def end_leftovers(self) -> None:
        """Kill whatever is left of the daemon.

        Raises:
            SilentError: /proc does not answer.
            DeviceError: a process survives SIGKILL: it hangs inside the driver.
        """
        left = await self._keepers.end(self._folder)
        if left:
            raise lifecycle.unkillable(list(left))

    def _env(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return daemon_env(self._uuid, self.pipe_dir, self.log_dir, inherited)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Return an answer to its end, or as much of it as an answer may have."""
    data = b""
    while len(data) <= MOST_ANSWER_BYTES and (part := await reader.read(65_536)):
        data += part
    return data[:MOST_ANSWER_BYTES]


def _nonsense(command: str, why: str = "") -> DeviceError:
    return DeviceError(
        f"The keeper of the MPS control daemon does not answer {command!r}"
        f"{f': {why[:200]}' if why else ' as keepers do'}.",
        hint="End the engines of this GPU: its daemon ends with the last of them, and then starts "
        "anew.",
        facts={"command": command},
    )
