"""Identifies a process by pid, start time and boot, which no other process ever shares.

A pid alone is not an identity, because the kernel reuses pids. The start time in clock ticks, which
the kernel keeps per process, tells a reused pid from ours, and the boot id tells two boots apart.
This module uses only the standard library, so that every part may use it.

A process that can open nothing more learns nothing of others, and takes none of them for gone.
"""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Final, Protocol

SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say that this process can open nothing now: nothing of what it would have opened."""


class Identified(Protocol):
    """An object that carries a process's identity."""

    @property
    def pid(self) -> int:
        """Process id."""
        ...

    @property
    def start_ticks(self) -> int:
        """Start time in clock ticks since boot."""
        ...

    @property
    def boot_id(self) -> str:
        """The boot that the process belongs to."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessId:
    """The lasting identity of one process.

    Attributes:
        start_ticks: start time in clock ticks since boot.
        boot_id: /proc/sys/kernel/random/boot_id of the boot that the process belongs to.
    """

    pid: int
    start_ticks: int
    boot_id: str


def raise_if_out_of_files(error: OSError) -> None:
    """Raise the error again if it is a shortage, which says nothing of what was to be read."""
    if error.errno in SHORTAGE:
        raise error


def boot_id() -> str:
    """The identity of this boot; "" if /proc does not tell it. Raises OSError: a shortage."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError as error:
        raise_if_out_of_files(error)
        return ""


def stat_fields(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat (proc(5)) from the state on; [] if the process is gone or a zombie.

    They are counted after the command's last parenthesis because the command may contain spaces
    and parentheses. Raises OSError: a shortage.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise_if_out_of_files(error)
        return []
    fields = stat.rpartition(b")")[2].split()
    return fields if fields and fields[0] not in (b"Z", b"X") else []


def environment(pid: int) -> list[bytes]:
    """Variables a process began with; [] if gone or another user's. Raises OSError: a shortage."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise_if_out_of_files(error)
        return []


def start_ticks(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None if there is no process.

    Raises OSError: a shortage.
    """
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def is_alive(process: Identified) -> bool:
    """Whether this very process is alive. A zombie is not; in a shortage a process that has the
    pid counts as this one.
    """
    try:
        return process.boot_id == boot_id() and start_ticks(process.pid) == process.start_ticks
    except OSError:
        return Path(f"/proc/{process.pid}").exists()  # which opens nothing


def own_identity() -> ProcessId:
    """This process's identity."""
    pid = os.getpid()
    return ProcessId(pid, start_ticks(pid) or 0, boot_id())
