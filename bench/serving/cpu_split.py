"""Splits the CPU time of engines into the engine's own loop and everything in front of it."""

import time
from collections.abc import Sequence
from typing import Final

from bench.processes import TICKS, all_pids, stat

ENGINE_LOOPS: Final = ("VLLM::EngineCor", "VLLM::Worker", "VLLM::DPCoordin")
"""Names that vLLM gives its processes, as cut off in /proc/PID/comm (15 bytes). A process with
another name parses, tokenises, streams and waits: it is the front-end, and for ours the proxy."""


class CpuSplit:
    """CPU time of the sessions of some processes between two moments.

    Args:
        leaders: any process of each session.
    """

    def __init__(self, leaders: Sequence[int]) -> None:
        self._sessions = {int(f[1][3]) for pid in leaders if (f := stat(pid)) is not None}
        self._before: dict[int, tuple[bool, int]] = {}
        self._began = 0.0

    def begin(self) -> None:
        """Start the measurement."""
        self._before, self._began = self._ticks(), time.monotonic()

    def end(self) -> tuple[float, float, float]:
        """CPU seconds of front-ends and of engine loops since `begin`, and the elapsed seconds."""
        seconds = max(1e-9, time.monotonic() - self._began)
        after = self._ticks()
        totals = {True: 0, False: 0}
        for pid, (loop, ticks) in after.items():
            totals[loop] += ticks - self._before.get(pid, (loop, 0))[1]
        return totals[False] / TICKS, totals[True] / TICKS, seconds

    def _ticks(self) -> dict[int, tuple[bool, int]]:
        """By process: whether the process is an engine's loop, and its CPU time so far."""
        found = {}
        for pid in all_pids():
            known = stat(pid)
            if known is not None and int(known[1][3]) in self._sessions:
                name, rest = known
                found[pid] = name.startswith(ENGINE_LOOPS), int(rest[11]) + int(rest[12])
        return found
