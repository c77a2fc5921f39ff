"""Keeps several engines under load until the window that is common to all of them is over."""

import dataclasses
from typing import Protocol

from loadgen import ClosedLoopResult
from loadgen.loops.window import WindowRule, WindowState
from loadgen.results.statistics import Throughput, TokenTimeline, throughput


class Gate(Protocol):
    """Knows the window that is common to all loads."""

    def is_over(self, mean_e2el: float | None, half_width_share: float) -> bool:
        """Whether the window is over, given one load's mean latency in seconds and certainty."""


@dataclasses.dataclass(frozen=True, slots=True)
class Together(WindowRule):
    """Keeps a load up until the gate says that the common window is over."""

    gate: Gate | None = None

    def state(
        self, elapsed: float, mean_e2el: float | None, half_width_share: float
    ) -> WindowState:
        """Close the window once the common window is over."""
        del elapsed
        over = self.gate is not None and self.gate.is_over(mean_e2el, half_width_share)
        return WindowState.CLOSED if over else WindowState.OPEN


def throughput_between(result: ClosedLoopResult, opened: float, closed: float) -> Throughput:
    """Return a load's throughput in a window that it covers, from all chunks in order."""
    timeline = TokenTimeline()
    arrivals = (
        arrival
        for record in result.records
        for arrival in zip(record.chunk_times, record.chunk_tokens, strict=True)
    )
    for at, tokens in sorted(arrivals):
        timeline.add(at, tokens)
    return throughput(timeline, opened, closed)
