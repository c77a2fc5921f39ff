"""Splits the CPU time of engines into the engine's own loop and everything in front of it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ENGINE_LOOPS: Final = ("VLLM::EngineCor", "VLLM::Worker", "VLLM::DPCoordin")
"""Names that vLLM gives its processes, as cut off in /proc/PID/comm (15 bytes). A process with
another name parses, tokenises, streams and waits: it is the front-end, and for ours the proxy."""


class CpuSplit:
    """CPU time of the sessions of some processes between two moments.

    Args:
        leaders: any process of each session.
    """

    def __init__(self, leaders: Sequence[int]) -> None:
        self._sessions = {s for pid in leaders if (s := _session(pid)) is not None}
        self._before: dict[int, tuple[bool, int]] = {}
        self._began = 0.0

    def begin(self) -> None:
        """Start the measurement."""
        self._before, self._began = self._ticks(), time.monotonic()

    def end(self) -> tuple[float, float, float]:
        """CPU seconds of front-ends and of engine loops since `begin`, and the elapsed seconds."""
        seconds = max(1e-9, time.monotonic() - self._began)
        after, hertz = self._ticks(), os.sysconf("SC_CLK_TCK")
        totals = {True: 0, False: 0}
        for pid, (loop, ticks) in after.items():
            totals[loop] += ticks - self._before.get(pid, (loop, 0))[1]
        return totals[False] / hertz, totals[True] / hertz, seconds

    def _ticks(self) -> dict[int, tuple[bool, int]]:
        """By process: whether the process is an engine's loop, and its CPU time so far."""
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            fields = _fields(int(entry.name))
            if fields is None or int(fields[1][3]) not in self._sessions:
                continue
            name, rest = fields
            found[int(entry.name)] = (name.startswith(ENGINE_LOOPS), int(rest[11]) + int(rest[12]))
        return found


def _session(pid: int) -> int | None:
    fields = _fields(pid)
    return None if fields is None else int(fields[1][3])


def _fields(pid: int) -> tuple[str, list[str]] | None:
    """The command's name and the fields after it (proc(5)); None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()
