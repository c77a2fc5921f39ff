"""Waiting for a store that another process has locked, without holding up the event loop."""

import asyncio
from typing import Final

from partitiond.core.errors import StoreBusyError
from partitiond.ports import Store

WAIT_SECONDS: Final = 5.0
"""A backup or a shell that holds the lock longer is told to whoever asked."""


class StoreWaits:
    """Many may wait at once; one thread does."""

    def __init__(self, store: Store, seconds: float = WAIT_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._waiting: asyncio.Task[None] | None = None

    async def until_writable(self) -> None:
        """Wait until no other process holds the lock.

        Raises:
            StoreBusyError: it is held for too long; nothing was written.
        """
        if self._waiting is None or self._waiting.done():
            wait = asyncio.to_thread(self._store.wait_until_writable, self._seconds)
            self._waiting = asyncio.create_task(wait, name="wait for the store")
        await asyncio.shield(self._waiting)

    async def to_keep(self) -> None:
        """The same for what must not be lost, however long the lock is held."""
        while True:
            try:
                return await self.until_writable()
            except StoreBusyError:
                continue
