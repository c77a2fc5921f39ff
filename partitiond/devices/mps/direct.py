"""Reaches a control daemon that runs as our user: by its pipe folder, and by running its program.

Where engines have a user of their own, only a daemon that an earlier release started runs so.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from partitiond.devices.mps import lifecycle, record
from partitiond.devices.mps.environment import daemon_env
from partitiond.devices.mps.processes import MpsProcess, control_of, servers_of
from partitiond.devices.mps.queries import ask
from partitiond.platform.process_identity import ProcessId, is_alive


class MpsAccess(Protocol):
    """Reaches one GPU's control daemon, whichever user it runs as."""

    pipe_dir: Path
    """CUDA_MPS_PIPE_DIRECTORY of the daemon's clients."""
    log_dir: Path
    """Folder of control.log and server.log."""

    def process(self) -> ProcessId | None:
        """Return the process that lives as long as the daemon; None if it does not run."""
        ...

    def servers(self) -> tuple[MpsProcess, ...] | None:
        """Return the daemon's servers, including those of an earlier daemon that is gone; None
        while they are not known."""
        ...

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the daemon and its servers."""
        ...

    async def ask(self, commands: Sequence[str], seconds: float | None = None) -> str:
        """Send commands; return the answer. Raises DeviceError."""
        ...

    async def log(self, name: str) -> str:
        """Return the end of one of the daemon's logs; empty if there is none."""
        ...

    async def prepare(self) -> None:
        """Leave nothing of an earlier daemon, and make what a new one needs. Raises DeviceError."""
        ...

    async def start(self) -> ProcessId:
        """Start the daemon and wait until it answers; else leave nothing. Raises DeviceError."""
        ...

    async def quit(self, process: ProcessId) -> None:
        """Ask the daemon and its servers to quit; else end them. Raises DeviceError."""
        ...

    async def end_leftovers(self) -> None:
        """End whatever is left of the daemon. Raises DeviceError."""
        ...


class DirectMps:
    """One GPU's control daemon of our user."""

    def __init__(self, uuid: str, folder: Path, program: str) -> None:
        self._uuid = uuid
        self._folder = folder
        self._program = program
        self.pipe_dir = folder / "pipe"
        self.log_dir = folder / "log"

    def process(self) -> ProcessId | None:
        """Return the daemon's process; None if the daemon does not run.

        The process is found by the record, or by its pipe folder if the record was not completed,
        is lost or cannot be read.
        """
        known = record.read(self._folder)
        if known is not None and known.process is not None:
            return known.process if is_alive(known.process) else None
        found = control_of(self.pipe_dir)
        return found.identity if found is not None else None

    def servers(self) -> tuple[MpsProcess, ...]:
        """Return the daemon's servers, including servers of an earlier daemon that is gone."""
        control = self.process()
        return servers_of(self.pipe_dir, control.pid if control else None)

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the daemon and its servers."""
        control = self.process()
        own = () if control is None else (control.pid,)
        return (*own, *(server.pid for server in self.servers()))

    async def ask(self, commands: Sequence[str], seconds: float | None = None) -> str:
        """Send commands; return the answer. Raises DeviceError."""
        return await ask(self._program, self._env(), commands, seconds)

    async def log(self, name: str) -> str:
        """Return the end of one of the daemon's logs; empty if there is none."""
        return lifecycle.tail(self.log_dir / name)

    async def prepare(self) -> None:
        """Leave nothing of an earlier daemon, and make fresh folders.

        Raises:
            DeviceError: something does not end, or a folder cannot be written.
        """
        await self.end_leftovers()
        record.make(self._folder)

    async def start(self) -> ProcessId:
        """Start the daemon and wait until it answers; else leave nothing. Raises DeviceError."""
        return await lifecycle.start(self._program, self._env(), self._folder)

    async def quit(self, process: ProcessId) -> None:
        """Ask the daemon and its servers to quit; else end them. Raises DeviceError."""
        if not await lifecycle.ask_to_quit(self.ask, process, lifecycle.GONE_SECONDS):
            await lifecycle.end((process,))
        await self.end_leftovers()

    async def end_leftovers(self) -> None:
        """End the daemon and servers that still have the pipe folder. Raises DeviceError."""
        await lifecycle.end_leftovers(self.pipe_dir)

    def _env(self) -> dict[str, str]:
        return daemon_env(self._uuid, self.pipe_dir, self.log_dir, os.environ)
