"""Reads and writes the run folder of one replica: its launch, its process and how it ended.

    launch.json    what the engine was started with (EngineLaunch), written before anything starts
    command.json   the exact command, environment, cores and folder the shim runs
    process.json   the shim's identity, written by the shim before the engine exists
    memory.json    the largest memory seen, written by the shim
    engine.log     the engine's output (rotated: engine.log.1, engine.log.2)
    engine.sock    where the engine listens
    tmp/           its temporary folder
    exit.json      how the engine ended, written by the shim last

A daemon that crashes between any two of these files finds the engine by those that exist.
launch.json and process.json may come from another release: unknown fields are ignored, and an
engine whose launch.json lacks a required field is still found (`RunFolder.handle`).
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from partitiond import serde
from partitiond.core.errors import InputError, StartFailedError
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.process import signals as process
from partitiond.engines.process.shim import write_json
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.process_identity import ProcessId

MAX_FOLDER_NAME: Final = 24
"""Unix socket paths end at 107 bytes; a long replica name must not use them up."""
MAX_SOCKET_PATH_BYTES: Final = 107

LAST_LOGS: Final = ".last-logs"
"""Below the run folder: the last log of each replica whose folder was cleared."""
LAST_LOGS_COUNT: Final = 20
LAST_LOGS_BYTES: Final = 64 * 1024 * 1024
"""A log is up to 8 MiB; most are some kilobytes."""


_SHORTENED: Final = re.compile(r"^.{15}-[0-9a-f]{8}$")
"""Matches a folder's name that may be a shortened one."""


def folder_name(replica_id: str) -> str:
    """Return a short name that is unique for the replica: its id, or the id's start and a hash."""
    if len(replica_id) <= MAX_FOLDER_NAME:
        return replica_id
    digest = hashlib.sha256(replica_id.encode()).hexdigest()[:8]
    return f"{replica_id[: MAX_FOLDER_NAME - 9]}-{digest}"


@dataclasses.dataclass(frozen=True, slots=True)
class ExitRecord:
    """exit.json: `code` or `signal` is set; `oom_kills` counts kernel kills while it ran."""

    code: int | None
    signal: int | None
    time: float
    oom_kills: int


@dataclasses.dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and contents of one replica's run folder."""

    path: Path

    @classmethod
    def of(cls, run_dir: Path, replica_id: str) -> "RunFolder":
        """Return the folder of a replica below the daemon's run folder."""
        return cls(run_dir.resolve() / folder_name(replica_id))

    @property
    def socket(self) -> Path:
        """The socket on which the engine listens."""
        return self.path / "engine.sock"

    @property
    def log(self) -> Path:
        """The engine's output."""
        return self.path / "engine.log"

    @property
    def temporary(self) -> Path:
        """The engine's TMPDIR."""
        return self.path / "tmp"

    def require_short_socket(self) -> None:
        """Raise StartFailedError if the path of the engine's socket would be too long."""
        length = len(str(self.socket).encode())
        if length > MAX_SOCKET_PATH_BYTES:
            raise StartFailedError(
                f"the socket path {self.socket} has {length} bytes; "
                f"a Unix socket's may have {MAX_SOCKET_PATH_BYTES}.",
                hint="Set a shorter run_dir.",
                facts={"bytes": length, "folder": folder_name(self.path.name)},
            )

    def prepare(self, launch: EngineLaunch, command: dict[str, Any]) -> None:
        """Clear what an earlier engine left, and write the launch and command of the next one."""
        self.clear()
        self.path.mkdir(mode=0o700, parents=True)
        self.temporary.mkdir(mode=0o700)
        reached(FaultPoint.RUN_FOLDER_MADE)
        write_json(str(self.path / "launch.json"), serde.to_stored_jsonable(launch))
        reached(FaultPoint.LAUNCH_WRITTEN)
        write_json(str(self.path / "command.json"), command)
        reached(FaultPoint.COMMAND_WRITTEN)

    def clear(self) -> None:
        """Remove the folder; its log is kept as the replica's last one."""
        if not self.path.exists():
            return
        if self.log.exists():
            kept = self.path.parent / LAST_LOGS
            kept.mkdir(mode=0o700, exist_ok=True)
            self.log.replace(kept / f"{self.path.name}.log")
            prune_logs(kept)
        self.remove()

    def remove(self) -> None:
        """Remove the folder, log and all."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove what only a living engine needs; the log and the records stay."""
        self.socket.unlink(missing_ok=True)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def launch(self) -> EngineLaunch | None:
        """Return the launch of the engine; None if it cannot be read.

        Raises OSError: a shortage.
        """
        with contextlib.suppress(InputError):
            return serde.read_stored(EngineLaunch, self.path / "launch.json")
        return None

    def leader(self) -> ProcessId | None:
        """Return the shim's identity; None if it never became a process. Reads /proc.

        Without a record, or with one that cannot be read or was copied from another folder, a
        living process is asked: an engine is not gone because a file is. Raises OSError: a
        shortage.
        """
        with contextlib.suppress(InputError):
            if found := self._recorded():
                return found
        return process.leader_of(self.path)

    def is_replaced(self, leader: ProcessId) -> bool:
        """Return whether a newer engine has the folder. Reads /proc. Raises OSError: a shortage."""
        try:
            return self._recorded() not in (None, leader)
        except InputError:  # which a newer one would have written anew
            return False

    def _recorded(self, *, asks: bool = True) -> ProcessId | None:
        found = process.recorded(self.path, asks=asks)
        return None if found is None else ProcessId(found.pid, found.start_ticks, found.boot_id)

    def handle(self, *, asks: bool = True) -> EngineHandle | None:
        """Return the engine of this folder, alive or not; None if it never became a process.

        If its launch cannot be read, the handle says why (`EngineHandle.unread`).

        Args:
            asks: reads /proc; else the record alone tells which process it is, copied or not.

        Raises:
            InputError: nobody is asked, and the record cannot be read.
            OSError: a shortage, which says nothing of the engine.
        """
        try:
            launch = serde.read_stored(EngineLaunch, self.path / "launch.json")
            unread = "" if launch is not None else "launch.json cannot be read: it is gone."
        except InputError as error:
            launch, unread = None, error.message
        launch = launch or _stand_in(self.path.name, self._read("launch.json"))
        leader = self.leader() if asks else self._recorded(asks=False)
        if leader is None:
            return None
        return EngineHandle(
            launch=launch,
            pid=leader.pid,
            start_ticks=leader.start_ticks,
            boot_id=leader.boot_id,
            socket_path=str(self.socket),
            log_path=str(self.log),
            run_dir=str(self.path),
            unread=unread,
            named=launch.replica_id != self.path.name or not _SHORTENED.search(self.path.name),
        )

    def exit(self) -> ExitRecord | None:
        """Return the engine's exit; None while it runs, or if the shim was killed as well."""
        with contextlib.suppress(InputError, OSError):
            return serde.read_stored(ExitRecord, self.path / "exit.json")
        return None

    def peak_pss_bytes(self) -> int:
        """Return the largest memory the shim saw, in bytes; 0 before its first sample."""
        peak = self._read("memory.json").get("peak_pss_bytes", 0)
        return peak if isinstance(peak, int) else 0

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _stand_in(folder: str, record: dict[str, Any]) -> EngineLaunch:
    """Return a launch from the readable part of an incomplete launch.json: enough to await its
    engine.
    """

    def text(field: str) -> str:
        value = record.get(field, "")
        return value if isinstance(value, str) else ""

    memory = record.get("memory_bytes", 0)
    return EngineLaunch(
        replica_id=text("replica_id") or folder,
        model_name=text("model_name"),
        model_folder="",
        placement=None,
        device_id=text("device_id"),
        visible_device="",
        cores=(),
        memory_bytes=memory if isinstance(memory, int) else 0,
        device_memory_bytes=0,
        kv_cache_bytes=0,
        max_num_seqs=1,
        max_num_batched_tokens=1,
        max_model_len=1,
        dtype="",
        dummy_weights=False,
    )


def prune_logs(kept: Path) -> None:
    """Keep the newest last logs, bounded by number and by total size."""
    logs = sorted(kept.glob("*.log"), key=_changed_at, reverse=True)
    total = 0
    for number, log in enumerate(logs):
        with contextlib.suppress(OSError):
            total += log.stat().st_size
        if number >= LAST_LOGS_COUNT or total > LAST_LOGS_BYTES:
            log.unlink(missing_ok=True)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # Another process prunes the same folder.
        return 0.0


def run_folders(run_dir: Path) -> list[RunFolder]:
    """Return all replicas' folders below the daemon's run folder, by name."""
    if not run_dir.is_dir():
        return []
    return [
        RunFolder(entry) for entry in sorted(run_dir.resolve().iterdir()) if _is_replicas(entry)
    ]


_RECORDS: Final = ("launch.json", "process.json")
"""Either one tells that a folder is a replica's: a living engine may have lost the other."""


def _is_replicas(entry: Path) -> bool:
    try:
        hidden = entry.name.startswith(".")
        return entry.is_dir() and not hidden and any((entry / name).exists() for name in _RECORDS)
    except PermissionError:  # another user's folder: nothing in it is ours
        return False
