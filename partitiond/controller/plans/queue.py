"""Limits the plans that are made at a time: each solve may take gigabytes of memory and a core."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from partitiond.core.errors import NotReadyError

ASKED_AT_ONCE: Final = 1
"""With the memory that a solve may take by default, two of them side by side fill a small host."""
MOST_WAITING: Final = 8
"""A few people and a dashboard; a solve takes seconds, and later callers would wait minutes."""


class PlanQueue:
    """Gives callers that ask for plans their turns, in the order in which they came.

    Plans that the daemon makes by itself, and the plan of an apply, take no turn and wait for no
    turn: at most one of each of these two kinds is made at a time.
    """

    def __init__(self, at_once: int = ASKED_AT_ONCE, most_waiting: int = MOST_WAITING) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most_waiting = most_waiting
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it for the block.

        Raises:
            NotReadyError: too many callers wait already.
        """
        if self._turns.locked() and self._waiting >= self._most_waiting:
            raise NotReadyError(
                f"{self._waiting} others wait for plans that were asked for; this one is not made.",
                hint="Ask again in a minute.",
                facts={"waiting": self._waiting},
            )
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
