"""Wakes watchers when something changes; they read the latest state, never a backlog."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

T = TypeVar("T")


class Watchers:
    """Watchers of one thing. A slow watcher skips states, and holds one flag."""

    def __init__(self) -> None:
        self._wakes: set[asyncio.Event] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """How many watch now."""
        return len(self._wakes)

    def changed(self) -> None:
        """Wake all watchers."""
        for wake in self._wakes:
            wake.set()

    def close(self) -> None:
        """End all watches because the daemon ends: each watcher gets the last state first."""
        self._closed = True
        self.changed()

    async def watch(
        self, latest: Callable[[], T], over: Callable[[T], bool]
    ) -> AsyncGenerator[T, None]:
        """Yield the state now and each time it changed, until it is over or `close` was called.

        Args:
            latest: reads the state as it is.
            over: whether a state is the last one.
        """
        wake = asyncio.Event()
        self._wakes.add(wake)
        told: T | None = None
        try:
            while True:
                wake.clear()
                now = latest()
                if now != told:
                    told = now
                    yield now
                    continue  # the state may have changed while the caller took it
                if over(now) or self._closed:
                    return
                await wake.wait()
        finally:
            self._wakes.discard(wake)
