"""Handles processes with all their children: pins them to a core, reads CPU time and memory.

It needs the standard library alone: `bench.gpu_check` runs with the packages of vLLM.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
KIB: Final = 1024
REALTIME_HELP: Final = "run before all other programs, for a busy machine; needs root"


def cores() -> tuple[int | None, int | None]:
    """(core for what is measured, core for its client); None for any core if there is but one."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        return None, None
    return mine[-1], mine[0]


def core_behind() -> int | None:
    """Core for a proxy behind the measured one: its own, or with two cores that of the client."""
    mine = sorted(os.sched_getaffinity(0))
    return None if len(mine) < 2 else mine[-2]


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
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))  # 1 is for `native.awake`
    except PermissionError:
        sys.exit("--realtime needs root, or CAP_SYS_NICE.")


def runs_first() -> bool:
    """Whether this process has the priority of `run_first`."""
    return os.sched_getscheduler(0) == os.SCHED_RR


def stop(child: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """End a process, by SIGKILL if needed, and close its pipe."""
    started = tree(child.pid)[1:] if child.poll() is None else []
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    kill(started)
    if child.stdout is not None:
        child.stdout.close()


def kill(pids: list[int]) -> None:
    """Kill the processes that still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stat(pid: int) -> tuple[str, list[str]] | None:
    """The command's name, and the fields from the state on (proc(5)); None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()


def command_of(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def all_pids() -> list[int]:
    """All processes of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def with_folder(*folders: Path) -> list[int]:
    """Other processes that have one of the folders in their command line or environment."""
    marks, found = [str(folder).encode() for folder in folders], []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            known = stat(pid)
            if pid != os.getpid() and known is not None and known[1][0] != "Z":
                found += [pid] if any(mark in text for mark in marks) else []
    return found


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
    parents = {one: int(known[1][1]) for one in all_pids() if (known := stat(one)) is not None}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_time(pid: int, *, children: bool = True) -> CpuTime:
    """CPU time of a process and its children so far, by the kernel (proc(5), stat 14 to 17).

    The sum is exact to 10 ms; the kernel's tick samples its division into user and system.
    """
    total = CpuTime()
    for one in tree(pid) if children else [pid]:
        known = stat(one)
        if known is not None:
            user, system, waited_user, waited_system = (
                int(field) / TICKS for field in known[1][11:15]
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


def memory_bytes(pid: int, *, children: bool = True) -> int:
    """Memory of a process and its children, with shared pages counted in proportion (PSS)."""
    total = 0
    for one in tree(pid) if children else [pid]:
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


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A port of this machine on which nothing listens now."""
    return free_ports(1)[0]
