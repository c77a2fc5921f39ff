"""Runs work in the background until it ends by itself or is stopped, whatever breaks in it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 5.0
"""Pause before work that broke is begun again. Chosen, not measured."""

Work = Callable[[], Coroutine[None, None, None]]


class Background:
    """Runs work until it ends by itself or is stopped; one defect must not end it for good."""

    def __init__(self, work: Sequence[Work], again_seconds: float = AGAIN_SECONDS) -> None:
        self._work = work
        self._again_seconds = again_seconds
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin all work."""
        self._tasks = [asyncio.create_task(self._keep(work)) for work in self._work]

    async def stop(self) -> None:
        """End all work; returns once nothing of it runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, work: Work) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("work in the background broke; it begins again")
                await asyncio.sleep(self._again_seconds)
            else:
                return
