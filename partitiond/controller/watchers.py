"""Watching what changes: a watcher is woken by a change and reads what is then, never a backlog."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

T = TypeVar("T")


class Watchers:
    """Who watches what, by key. A slow watcher misses states in between, and holds one flag."""

    def __init__(self) -> None:
        self._wakes: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    @property
    def count(self) -> int:
        """How many watch now."""
        return sum(len(wakes) for wakes in self._wakes.values())

    def changed(self, key: str) -> None:
        """Wake those who watch this."""
        for wake in self._wakes.get(key, ()):
            wake.set()

    def close(self) -> None:
        """The daemon ends: everyone gets the last state, then their end."""
        self._closed = True
        for key in tuple(self._wakes):
            self.changed(key)

    async def watch(
        self, key: str, latest: Callable[[], T], over: Callable[[T], bool]
    ) -> AsyncGenerator[T, None]:
        """The state now and each time it changed, until it is over or `close` was called.

        Args:
            key: what is watched.
            latest: reads the state as it is.
            over: whether a state is the last one.
        """
        wake = asyncio.Event()
        self._wakes.setdefault(key, set()).add(wake)
        told: T | None = None
        try:
            while True:
                wake.clear()
                now = latest()
                if now != told:
                    told = now
                    yield now
                    continue  # it may have changed while that was taken
                if over(now) or self._closed:
                    return
                await wake.wait()
        finally:
            self._wakes[key].discard(wake)
            if not self._wakes[key]:
                del self._wakes[key]
