"""Waits for, signals and finds processes, whether or not they are this process's children."""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from partitiond import serde
from partitiond.core.errors import EngineError, InputError
from partitiond.engines.process import shim
from partitiond.platform import process_exit
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.platform.process_identity import (
    ProcessId,
    boot_id,
    environment,
    is_alive,
    raise_if_out_of_files,
    stat_fields,
)

REPLICA_DIR_VARIABLE = "PARTITIOND_REPLICA_DIR"
"""Variable in the environment of every process of a replica; it names the run folder."""

REAP_SECONDS = 5.0
"""After SIGKILL a process is gone at once unless it sleeps uninterruptibly in a driver."""


PROC = DeadlineCalls()
"""All of /proc is read to find the processes of an engine; one that is stuck in the kernel may
block the reader of its environment."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class ShimRecord:
    """What process.json says, in the words of `shim.write_identity`."""

    pid: int
    start_ticks: int
    boot_id: str
    cgroup: str = ""
    forked: int = 0

    def current_cgroup(self) -> str:
        """Return the cgroup of an engine that runs as another user; "" for any other.

        A cgroup of that name may be another engine's after a restart of the host.
        """
        return self.cgroup if self.boot_id == boot_id() else ""


def recorded(run_dir: Path, *, asks: bool = True) -> ShimRecord | None:
    """Return the record of a run folder's shim; None if there is none.

    Args:
        asks: reads the process's environment in /proc, which may hang.

    Raises:
        InputError: it cannot be read, or it was copied here: the process lives, and names another
            folder that exists. A folder that was moved keeps its engine.
        OSError: a shortage.
    """
    record = serde.read_stored(ShimRecord, run_dir / "process.json")
    prefix = f"{REPLICA_DIR_VARIABLE}=".encode()
    asked = record is not None and asks and is_alive(record)
    for variable in environment(record.pid) if record is not None and asked else ():
        if variable.startswith(prefix):
            with contextlib.suppress(OSError):
                if not Path(os.fsdecode(variable.removeprefix(prefix))).samefile(run_dir):
                    raise InputError("process.json is another folder's.")
    return record


async def look(run_dir: Path, call: Callable[[], T], seconds: float | None = None) -> T:
    """Ask /proc for a run folder, outside the event loop. Raises SilentError: it does not answer
    in time, by default that of any look; and what the call raises."""
    return await PROC.look(f"/proc for {run_dir.name}", call, seconds)


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


def processes_of(run_dir: Path, leader: ProcessId | None, cgroup: str | None = None) -> list[int]:
    """Return the living processes of one replica, including the shim and those that left the group.

    A process is the replica's if its environment names the run folder. Processes that set their
    title overwrite what /proc shows of their environment, so a process is the replica's as well if
    it is in the shim's session and works in the run folder. (A session's number is not reused while
    a process of it lives, so a session of that number with that folder is ours.) Processes of an
    engine of another user are those of its cgroup, which is read if it is not given.

    Raises:
        OSError: this process can open nothing, so it does not know.
    """
    mark = f"{REPLICA_DIR_VARIABLE}={run_dir}".encode()
    session = leader.pid if leader is not None and leader.boot_id == boot_id() else None
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _belongs(int(entry.name), mark, run_dir, session):
            found.append(int(entry.name))
    if leader is not None and is_alive(leader) and leader.pid not in found:
        found.append(leader.pid)
    theirs = shim.cgroup_pids(cgroup_of(run_dir) if cgroup is None else cgroup)
    return [*found, *(pid for pid in theirs if pid not in found)]


def cgroup_of(run_dir: Path) -> str:
    """Return what the record says (`ShimRecord.current_cgroup`); "" if none can be read."""
    with contextlib.suppress(InputError):
        if record := recorded(run_dir):
            return record.current_cgroup()
    return ""


def _belongs(pid: int, mark: bytes, folder: Path, session: int | None) -> bool:
    try:
        fields = stat_fields(pid)
        if not fields:
            return False
        same_session = session is not None and int(fields[3]) == session
        if same_session and Path(f"/proc/{pid}/cwd").readlink() == folder:
            return True
        return mark in environment(pid)
    except OSError as error:
        # The process is gone, or another user's: it is not ours either way.
        raise_if_out_of_files(error)
        return False


def leader_of(run_dir: Path) -> ProcessId | None:
    """Find the shim of a replica by its mark: the oldest of its processes that lead a session."""
    leaders = []
    for pid in processes_of(run_dir, None):
        fields = stat_fields(pid)
        if fields and int(fields[3]) == pid:
            leaders.append(ProcessId(pid, int(fields[19]), boot_id()))
    return min(leaders, key=lambda found: found.start_ticks, default=None)


async def kill_all(
    run_dir: Path,
    leader: ProcessId | None,
    seconds: float = REAP_SECONDS,
    look_seconds: float | None = None,
) -> tuple[int, ...]:
    """SIGKILL every process of the replica, once at least, until none is left or the time is over;
    each look for them has `look_seconds` (as `look`).

    Returns:
        Pids that are still alive: their memory and devices are not free.

    Raises:
        SilentError: /proc does not answer, for example for a process stuck in the kernel.
    """

    def alive() -> tuple[list[int], str]:
        cgroup = cgroup_of(run_dir)
        return processes_of(run_dir, leader, cgroup), cgroup

    deadline = None  # from the first signal on: a look may take long on a busy host
    while True:
        left, cgroup = await look(run_dir, alive, look_seconds)
        if not left:
            break
        now = asyncio.get_running_loop().time()
        deadline = deadline or now + seconds
        if deadline < now:
            break
        shim.kill_cgroup(cgroup)
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


def bytes_alone(run_dir: Path, leader: ProcessId) -> int:
    """Return what all the replica's processes hold now, in bytes, as if none had been forked from
    others: its footprint, also where it imports by itself some day.

    Pages of files are divided among their users. Processes of another user tell this one nothing:
    what the kernel says of their cgroup counts.
    """
    record = None
    with contextlib.suppress(InputError):
        record = recorded(run_dir)
    cgroup, forked = (record.current_cgroup(), record.forked) if record else ("", 0)
    theirs = set(shim.cgroup_pids(cgroup))
    ours = (pid for pid in processes_of(run_dir, leader, cgroup) if pid not in theirs)
    own = sum(shim.pss_bytes(pid, alone=pid == forked) for pid in ours)
    return own + max(shim.charged_bytes(cgroup), sum(map(shim.pss_bytes, theirs)))
