"""Identifies a process by pid, start time and boot, which no other process ever shares.

A pid alone is not an identity, because the kernel reuses pids. The start time in clock ticks, which
the kernel keeps per process, tells a reused pid from ours, and the boot id tells two boots apart.
This module uses only the standard library, so that every part may use it.
"""

import dataclasses
import os
from pathlib import Path
from typing import Protocol


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


def boot_id() -> str:
    """The identity of this boot; "" if /proc does not tell it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None if there is no process.

    Field 22 of /proc/PID/stat (proc(5)), counted after the command's last parenthesis because the
    command may contain spaces and parentheses. A zombie counts as gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else None


def is_alive(process: Identified) -> bool:
    """Whether this very process is alive. A zombie is not."""
    return process.boot_id == boot_id() and start_ticks(process.pid) == process.start_ticks


def own_identity() -> ProcessId:
    """This process's identity."""
    pid = os.getpid()
    return ProcessId(pid, start_ticks(pid) or 0, boot_id())
