"""Decides which periods of budgets to believe, when a clock was set to a wrong time. Pure.

The period of a budget is the latest that was heard of, so that a clock that steps back begins no
budget anew. A period that lies ahead of the clock is dropped once the clock has gone evenly for
`STEADY_SECONDS`: else a clock that was a year ahead once would close budgets for a year.
"""

import math
from typing import Final

STEADY_SECONDS: Final = 600.0
"""Time without a larger step after which the clock is right; what is ahead by less counts. Chosen:
after a boot clocks are set within minutes, and the clocks of hosts differ by less."""


class WallClock:
    """Watches the steps of a wall clock against a monotonic one."""

    def __init__(self) -> None:
        self._offset = math.inf
        self._since = 0.0

    def latest(self, now: float, unix: float) -> float:
        """Return the latest start of a period to believe, in Unix seconds; `now` is monotonic."""
        offset = unix - now
        if abs(offset - self._offset) > STEADY_SECONDS:
            self._since = now
        self._offset = offset
        return unix + STEADY_SECONDS if now - self._since >= STEADY_SECONDS else math.inf
