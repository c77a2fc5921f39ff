"""All control daemons of this host: ours by GPU, and those of others."""

import shutil
from pathlib import Path

from partitiond.devices.mps import record
from partitiond.devices.mps.asking import INSTALL_HINT
from partitiond.devices.mps.daemon import CHECK_SECONDS, MpsDaemon
from partitiond.devices.mps.foreign import ForeignMps, foreign, own_pids
from partitiond.devices.mps.lifecycle import PlaceFor, no_place
from partitiond.devices.mps.processes import mps_processes


class MpsControl:
    """Daemons of ours, one per GPU, each in a folder of its own below run_dir."""

    def __init__(
        self,
        run_dir: Path,
        program: str,
        *,
        place: PlaceFor = no_place,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Nothing is started or looked at yet.

        Args:
            run_dir: ours alone; a short path, since sockets lie below it.
            program: NVIDIA's control program, found on PATH or by its path.
            place: where a daemon is started, by its name ("mps-3c5a1b2d"): in a scope of its own,
                so that a restart of our service does not end it.
            check_seconds: shortest time between two questions about a fault of one daemon.
        """
        self._run_dir = run_dir
        self._program = program
        self._place = place
        self._check_seconds = check_seconds
        self._daemons: dict[str, MpsDaemon] = {}

    def daemon(self, uuid: str) -> MpsDaemon:
        """The daemon of a GPU, running or not; the same object with every call.

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
            place=self._place,
            check_seconds=self._check_seconds,
        )

    def running(self) -> list[MpsDaemon]:
        """Daemons of ours that live, whichever process of ours started them."""
        return [daemon for daemon in self.recorded() if daemon.alive()]

    def recorded(self) -> list[MpsDaemon]:
        """Daemons that were started and not ended by us: running ones, and what is left of
        others."""
        found: list[MpsDaemon] = []
        for folder, known in record.records(self._run_dir):
            if known.uuid not in self._daemons:
                self._daemons[known.uuid] = self._made(known.uuid, folder)
            found.append(self._daemons[known.uuid])
        return found

    def pids(self) -> frozenset[int]:
        """Processes of ours that are no engines: control daemons and servers. Reads /proc once."""
        return own_pids(mps_processes(), self._run_dir / "mps")

    def foreign(self) -> tuple[ForeignMps, ...]:
        """MPS daemons and servers of others on this host, and what each means."""
        return foreign(mps_processes(), self._run_dir / "mps")

    def unavailable(self) -> str:
        """Why MPS cannot be used here, and what to do; empty where its program is installed."""
        if shutil.which(self._program) is None:
            return f"{self._program} is not installed. {INSTALL_HINT}"
        return ""
