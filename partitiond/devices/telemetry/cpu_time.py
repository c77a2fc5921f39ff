"""Measures the CPU time of engines: of all processes of their sessions, ended ones included.

An engine's processes share the session of its shim. A process's time includes its threads and the
ended children that it waited for (utime, stime, cutime, cstime of proc(5)). The shim is the
subreaper of its tree, so it waits for children of ended parents, too. Only the time of children
whose parent ignores SIGCHLD is lost: the kernel adds it to no process.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """Fields of /proc/PID/stat of one process."""

    parent: int
    session: int
    ticks: int


def cpu_seconds(sessions: Collection[int]) -> float:
    """Return the CPU seconds so far of all processes in these sessions and below their leaders."""
    wanted = set(sessions)
    table = _process_table() if wanted else {}
    ticks = sum(
        stat.ticks
        for pid, stat in table.items()
        if stat.session in wanted or _descends(pid, wanted, table)
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def _descends(pid: int, ancestors: set[int], table: Mapping[int, ProcessStat]) -> bool:
    """Whether a process, perhaps with a session of its own, descends from one of the leaders."""
    seen = set()
    while pid in table and pid not in seen:
        if pid in ancestors:
            return True
        seen.add(pid)
        pid = table[pid].parent
    return False


def _process_table() -> dict[int, ProcessStat]:
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = _stat(Path(entry.path) / "stat")
            if stat is not None:
                table[int(entry.name)] = stat
    return table


def _stat(path: Path) -> ProcessStat | None:
    try:
        text = path.read_bytes()
    except OSError:  # the process has ended
        return None
    # The command in parentheses may hold spaces and parentheses itself: count after the last one.
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 15:
        return None
    return ProcessStat(int(fields[1]), int(fields[3]), sum(int(f) for f in fields[11:15]))
