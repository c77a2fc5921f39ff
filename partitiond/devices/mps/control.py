"""Manages all control daemons of this host: ours by GPU, and foreign ones."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from partitiond.devices.mps import record
from partitiond.devices.mps.daemon import CHECK_SECONDS, MpsDaemon
from partitiond.devices.mps.foreign import ForeignMps, foreign, own_pids
from partitiond.devices.mps.kept import Keepers
from partitiond.devices.mps.processes import mps_processes
from partitiond.devices.mps.queries import INSTALL_HINT


class MpsControl:
    """Manages our daemons, one per GPU, each in a folder of its own below run_dir."""

    def __init__(
        self,
        run_dir: Path,
        program: str,
        *,
        keepers: Keepers | None = None,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Keep the arguments; nothing is started or read yet.

        Args:
            run_dir: folder for our use only; a short path, since sockets lie below it.
            program: NVIDIA's control program, by its name on PATH or by its path.
            keepers: starts daemons as the users of engines; None where all run as our user.
            check_seconds: shortest time between two checks of one daemon for a fault.
        """
        self._run_dir = run_dir
        self._program = program
        self._keepers = keepers
        self._check_seconds = check_seconds
        self._daemons: dict[str, MpsDaemon] = {}

    def daemon(self, uuid: str) -> MpsDaemon:
        """Return the daemon of a GPU, running or not; the same object in every call.

        Raises:
            DeviceError: run_dir is too long for a socket.
        """
        known = self._daemons.get(uuid)
        if known is None:
            folder = record.folder_of(self._run_dir, uuid)
            known = self._daemons[uuid] = self._made(uuid, folder)
        return known

    def _made(self, uuid: str, folder: Path) -> MpsDaemon:
        return MpsDaemon(
            uuid,
            folder,
            self._program,
            keepers=self._keepers,
            check_seconds=self._check_seconds,
        )

    def own_daemons(self) -> list[MpsDaemon]:
        """Return daemons that we started and did not end: running ones, and leftovers of others."""
        found: list[MpsDaemon] = []
        for folder, known in record.records(self._run_dir):
            if known.uuid not in self._daemons:
                self._daemons[known.uuid] = self._made(known.uuid, folder)
            found.append(self._daemons[known.uuid])
        return found

    def silent(self) -> Mapping[str, str]:
        """Return why the daemons that hang are taken for hung, by GPU. Asks none of them."""
        known = tuple(self._daemons.items())
        return {uuid: why for uuid, daemon in known if (why := daemon.silence)}

    def pids(self) -> frozenset[int]:
        """Return pids of our control daemons and servers. Reads /proc once."""
        return own_pids(mps_processes(), self._run_dir / "mps") | self._kept_pids()

    def _kept_pids(self) -> frozenset[int]:
        """Return pids of daemons of other users: their environment, which tells, is closed."""
        kept = [daemon for daemon in self.own_daemons() if daemon.kept]
        return frozenset(pid for daemon in kept for pid in daemon.pids())

    def foreign(self) -> tuple[ForeignMps, ...]:
        """Return foreign MPS daemons and servers on this host, and what each means."""
        kept = self._kept_pids()
        others = [process for process in mps_processes() if process.pid not in kept]
        return foreign(others, self._run_dir / "mps")

    def unavailable(self) -> str:
        """Return why MPS cannot be used here, and what to do; empty if its program is installed."""
        if shutil.which(self._program) is None:
            return f"{self._program} is not installed. {INSTALL_HINT}"
        return ""
