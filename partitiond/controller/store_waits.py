"""Waits for a store that another process has locked, without blocking the event loop."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from partitiond.core.errors import StoreBusyError
from partitiond.store import Store

WAIT_SECONDS: Final = 5.0
"""If a backup or a shell holds the lock for longer than this, the caller gets an error."""


class StoreWaits:
    """Lets any number of callers wait at once, with one thread for all of them."""

    def __init__(self, store: Store, seconds: float = WAIT_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._waiting: asyncio.Task[None] | None = None

    async def until_writable(self) -> None:
        """Wait until no other process holds the lock.

        Raises:
            StoreBusyError: the lock is held for too long; nothing was written.
        """
        if self._waiting is None or self._waiting.done():
            wait = asyncio.to_thread(self._store.wait_until_writable, self._seconds)
            self._waiting = asyncio.create_task(wait, name="wait for the store")
        await asyncio.shield(self._waiting)

    async def write(self, what: Callable[[], None]) -> None:
        """Write what must not be lost, however long another process holds the lock.

        Raises:
            StoreError: the store cannot be written for another reason.
        """
        while True:
            try:
                return what()
            except StoreBusyError:
                with contextlib.suppress(StoreBusyError):
                    await self.until_writable()
