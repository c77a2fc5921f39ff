"""Waits for, signals and finds processes, whether or not they are this process's children."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import os
import signal
from pathlib import Path

from partitiond import serde
from partitiond.core.errors import EngineError, InputError
from partitiond.engines.process import shim
from partitiond.platform import process_exit
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.platform.process_identity import (
    ProcessId,
    boot_id,
    is_alive,
    raise_if_out_of_files,
    start_ticks,
    stat_fields,
)

__all__ = ["ProcessId", "boot_id", "is_alive", "start_ticks"]
"""Named here as well, of what this module imports."""

REPLICA_DIR_VARIABLE = "PARTITIOND_REPLICA_DIR"
"""Variable in the environment of every process of a replica; it names the run folder."""

REAP_SECONDS = 5.0
"""After SIGKILL a process is gone at once unless it sleeps uninterruptibly in a driver."""


PROC = DeadlineCalls()
"""All of /proc is read to find the processes of an engine; one that is stuck in the kernel may
block the reader of its environment."""


async def wait_gone(process: ProcessId) -> None:
    """Return once the process is gone. Works for processes that are not our children."""
    await process_exit.wait_gone(process)
    # The process is ours to reap if the daemon is the container's first process.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait


async def gone_within(process: ProcessId, seconds: float) -> bool:
    """Return whether the process was gone before `seconds` had passed."""
    try:
        async with asyncio.timeout(seconds):
            await wait_gone(process)
    except TimeoutError:
        return False
    return True


def send_signal(process: ProcessId, number: int) -> bool:
    """Signal exactly this process. Returns False when it is gone."""
    descriptor = process_exit.open_pidfd(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class ShimRecord:
    """process.json, as a shim wrote it; see `ProcessId`.

    Attributes:
        cgroup: folder of the cgroup of an engine that runs as another user; "" for any other.
    """

    pid: int
    start_ticks: int
    boot_id: str
    cgroup: str = ""

    @property
    def process(self) -> ProcessId:
        """The shim."""
        return ProcessId(self.pid, self.start_ticks, self.boot_id)


def _recorded(run_dir: Path) -> ShimRecord | None:
    """Return the record of a run folder; None if it cannot be read.

    It may be lost, damaged or another folder's, so it says nothing of what runs. Raises OSError: a
    shortage.
    """
    with contextlib.suppress(InputError):
        return serde.read_stored(ShimRecord, run_dir / "process.json")
    return None


def folder_of_shim(pid: int) -> str:
    """Return the run folder of a living shim, by its command; "" if the process is none.

    Raises OSError: a shortage.
    """
    fields = stat_fields(pid)
    if not fields or int(fields[3]) != pid:  # a shim leads a session
        return ""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError as error:
        raise_if_out_of_files(error)
        return ""
    pairs = itertools.pairwise(map(os.fsdecode, words))
    name = f"/{Path(shim.__file__).name}"
    return next((folder for program, folder in pairs if program.endswith(name)), "")


def leader_of(run_dir: Path) -> ProcessId | None:
    """Return the shim of a run folder: the living one, or, by its record, the one that is gone;
    None if there was none. Raises OSError: a shortage.

    The living process is asked for its folder; the record only says where to look first.
    """
    record, folder = _recorded(run_dir), str(run_dir)
    if record is not None and is_alive(record) and folder_of_shim(record.pid) == folder:
        return record.process
    for pid in all_pids():
        ticks = start_ticks(pid) if folder_of_shim(pid) == folder else None
        if ticks is not None:
            return ProcessId(pid, ticks, boot_id())
    return None if record is None or is_alive(record) else record.process


def processes_of(run_dir: Path) -> list[int]:
    """Return the living processes of one replica, including the shim and those that left the group.

    A process is the replica's if its environment names the run folder. Processes that set their
    title overwrite what /proc shows of their environment, so a process is the replica's as well if
    it is in the shim's session and works in the run folder. (A session's number is not reused while
    a process of it lives, so a session of that number with that folder is ours.) Processes of an
    engine of another user are those of its cgroup.

    Raises:
        OSError: this process can open nothing, so it does not know.
    """
    shims = (_recorded(run_dir), leader_of(run_dir))
    sessions = {one.pid for one in shims if one is not None and one.boot_id == boot_id()}
    found = [pid for pid in all_pids() if _belongs(pid, run_dir, sessions)]
    return [*found, *(pid for pid in shim.cgroup_pids(cgroup_of(run_dir)) if pid not in found)]


def all_pids() -> list[int]:
    """Return the pids of this host. Raises OSError: a shortage."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def folder_of_mark(pid: int) -> str:
    """Return the run folder that a process's environment names; "" for none, or if the process is
    another user's. Raises OSError: a shortage.
    """
    mark = f"{REPLICA_DIR_VARIABLE}=".encode()
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise_if_out_of_files(error)
        return ""
    return next((os.fsdecode(w.removeprefix(mark)) for w in words if w.startswith(mark)), "")


def cgroup_of(run_dir: Path) -> str:
    """Return the folder of the cgroup of an engine that runs as another user; "" for any other.

    The record's cgroup may be another engine's after a restart of the host, or where the record
    names a living process that is not this folder's shim.
    """
    record = _recorded(run_dir)
    if record is None or record.boot_id != boot_id():
        return ""
    others = is_alive(record) and folder_of_shim(record.pid) != str(run_dir)
    return "" if others else record.cgroup


def _belongs(pid: int, folder: Path, sessions: set[int]) -> bool:
    fields = stat_fields(pid)
    if not fields:
        return False
    if int(fields[3]) in sessions:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if Path(f"/proc/{pid}/cwd").readlink() == folder:
                return True
    return folder_of_mark(pid) == str(folder)


async def kill_all(run_dir: Path, seconds: float = REAP_SECONDS) -> tuple[int, ...]:
    """SIGKILL every process of the replica, once at least, until none is left or the time is over.

    Returns:
        Pids that are still alive: their memory and devices are not free.

    Raises:
        SilentError: /proc does not answer, for example for a process stuck in the kernel.
    """
    look = functools.partial(processes_of, run_dir)
    deadline = None  # from the first signal on: a look may take long on a busy host
    while left := await PROC.look(f"/proc for {run_dir.name}", look):
        now = asyncio.get_running_loop().time()
        deadline = deadline or now + seconds
        if deadline < now:
            break
        shim.kill_cgroup(cgroup_of(run_dir))
        for pid in left:
            # Another user's process is in its cgroup, or carries our mark and changed its user.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
    return tuple(left)


class StillAliveError(EngineError):
    """Processes of an engine that outlive SIGKILL; `facts["pids"]` names them."""


def require_gone(replica_id: str, left: tuple[int, ...]) -> None:
    """Raise StillAliveError if `kill_all` left processes alive."""
    if left:
        named = ", ".join(str(pid) for pid in left)
        raise StillAliveError(
            f"processes of {replica_id} are still alive after SIGKILL: {named}.",
            hint="They wait in the kernel, mostly for a device: see `dmesg`; it is tried again.",
            facts={"pids": list(left)},
        )


def pss_bytes(run_dir: Path) -> int:
    """Return the proportional set size of all the replica's processes now, in bytes.

    Shared pages are divided among their users, so the figures of several replicas add up. Processes
    of another user tell this one nothing: what the kernel says of their cgroup counts.
    """
    cgroup = cgroup_of(run_dir)
    theirs = set(shim.cgroup_pids(cgroup))
    ours = (pid for pid in processes_of(run_dir) if pid not in theirs)
    return sum(map(shim.pss_bytes, ours)) + max(
        shim.charged_bytes(cgroup), sum(map(shim.pss_bytes, theirs))
    )
