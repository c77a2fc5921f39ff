"""Handles processes with all their children: pins them to a core, reads CPU time and memory."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

TICKS: Final = os.sysconf("SC_CLK_TCK")
KIB: Final = 1024
REALTIME_HELP: Final = "run before all other programs, for a busy machine; needs root"


def cores(*, spread: bool) -> tuple[int | None, int | None]:
    """(core for the proxy, core for upstream and client); None for any core."""
    mine = sorted(os.sched_getaffinity(0))
    if spread or len(mine) < 2:
        return None, None
    return mine[-1], mine[0]


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin processes started in the block, with all their threads, to this core; None for any."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_first() -> None:
    """Give this process and its future children priority over normal ones (real-time round robin).

    CPU figures on a shared machine become as good as on a quiet one, at the cost of all other
    processes. If these want the core, the kernel gives them 50 ms of each second in one piece: a
    p99 still needs a quiet machine. Exits if it is not permitted.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        sys.exit("--realtime needs root, or CAP_SYS_NICE.")


def stop(child: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """End a process, by SIGKILL if needed, and close its pipe."""
    children = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for left in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    if child.stdout is not None:
        child.stdout.close()


@dataclasses.dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time in seconds."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: "CpuTime") -> "CpuTime":
        return CpuTime(self.user + other.user, self.system + other.system)

    def __sub__(self, other: "CpuTime") -> "CpuTime":
        return CpuTime(self.user - other.user, self.system - other.system)


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_time(pid: int, *, children: bool = True) -> CpuTime:
    """CPU time of a process and its children so far, by the kernel (proc(5), stat 14 to 17).

    The sum is exact to 10 ms; the kernel's tick samples its division into user and system.
    """
    total = CpuTime()
    for one in tree(pid) if children else [pid]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            user, system, waited_user, waited_system = (
                int(field) / TICKS for field in fields[11:15]
            )
            total += CpuTime(user + waited_user, system + waited_system)
    return total


def busy_seconds(core: int | None) -> float:
    """CPU seconds used on a core since boot by all programs; on all cores for None."""
    name = "cpu" if core is None else f"cpu{core}"
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] == name:
            user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
            return (user + nice + system + irq + softirq) / TICKS
    return 0.0


def memory_bytes(pid: int) -> int:
    """Memory of a process and its children, with shared pages counted in proportion (PSS)."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * KIB
    return total


def open_sockets(pid: int) -> int:
    """Number of sockets that a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count


def free_port() -> int:
    """A TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
