"""Excludes NVML sessions in this process while a GPU's MIG mode changes.

The driver changes the MIG mode of an A100 by a reset. It refuses the reset while any process has
the GPU open through NVML: a monitoring agent, or this process itself when a privileged helper makes
the change. This module counts every session of this process. A change waits until all other
sessions have ended, and blocks new sessions until the change is done. A thread that keeps a session
for long checks `wanted` and ends its session when asked; new sessions wait and are not refused.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

log = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 10.0
"""Longest wait for sessions to end. Reading all GPUs takes tens of milliseconds; a call that hangs
in the driver must not keep a change from being tried."""
ENTER_SECONDS: Final = 120.0
"""Longest wait of a session for a change to end: longer than the helper may take."""


class SessionGate:
    """Counts this process's sessions and excludes them during changes. Usable from any thread."""

    def __init__(
        self, leave_seconds: float = LEAVE_SECONDS, enter_seconds: float = ENTER_SECONDS
    ) -> None:
        self._leave_seconds = leave_seconds
        self._enter_seconds = enter_seconds
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()
        self._waiting = 0
        self._wanted_since = 0.0
        self._holder: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether a change waits for all sessions to end, or is under way."""
        return self._waiting > 0

    @property
    def changing(self) -> bool:
        """Whether a change is wanted or under way, and sessions still wait for it."""
        return self._waiting > 0 and self._enter_within() > 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count a session for the block; it begins once no other thread wants a change.

        A thread that already has a session gets another at once; otherwise it would deadlock.
        """
        me = threading.get_ident()
        with self._changed:
            if not self._inside[me] and self._holder != me and self._waiting:
                self._changed.wait_for(lambda: not self._waiting, self._enter_within())
            self._inside[me] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                self._changed.notify_all()

    @contextlib.contextmanager
    def kept(self) -> Iterator[bool]:
        """Exclude sessions of other threads inside the block; this thread may have its own.

        Yields:
            Whether all other sessions have ended; False if a session did not end in time.
        """
        me = threading.get_ident()
        deadline = time.monotonic() + self._leave_seconds
        with self._changed:
            if not self._waiting:
                self._wanted_since = time.monotonic()
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._holder is None)
                self._holder = me
                left = max(0.0, deadline - time.monotonic())
                alone = self._changed.wait_for(lambda: not self._others(me), left)
            except BaseException:
                self._end(me)
                raise
        if not alone:
            log.warning("NVML is still in use in this process: the driver may refuse a change")
        try:
            yield alone
        finally:
            with self._changed:
                self._end(me)

    def _enter_within(self) -> float:
        """Return how long a session still waits for the change under way, in seconds. A hanging
        change delays sessions only once."""
        return max(0.0, self._wanted_since + self._enter_seconds - time.monotonic())

    def _others(self, me: int) -> bool:
        return any(thread != me for thread in self._inside)

    def _end(self, me: int) -> None:
        self._waiting -= 1
        if self._holder == me:
            self._holder = None
        self._changed.notify_all()


QUIET: Final = SessionGate()
"""The counter of this process."""
