"""Remembers when the control plane was heard last (`core.keys.stale`)."""

import time
from collections.abc import Callable

from partitiond.core.keys.stale import is_stale


def since_boot() -> float:
    """Return seconds since the boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LastWord:
    """The last word of the control plane to this process.

    Attributes:
        limit_seconds: longest silence for which keys are accepted; 0 for any. A table sets it.
        at: when the word came, in seconds since the boot; None if none has come.

    Args:
        clock: returns seconds since the boot.
    """

    def __init__(self, clock: Callable[[], float] = since_boot) -> None:
        self._clock = clock
        self.limit_seconds = 0.0
        self.at: float | None = None

    def hear(self, limit_seconds: float) -> None:
        """Count a table that was taken as a word."""
        self.learn(limit_seconds, self._clock())

    def learn(self, limit_seconds: float, at: float | None) -> None:
        """Take over a word that another process of this host heard."""
        self.limit_seconds, self.at = limit_seconds, at

    def is_stale(self) -> bool:
        """Whether keys have to be refused."""
        # Asked at each request: without a limit, no clock is read.
        return self.limit_seconds > 0.0 and is_stale(self.limit_seconds, self.at, self._clock())
