"""Watching jobs: each watcher is woken by a change and reads what is then, never a backlog."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from partitiond.ports import Job, JobState

ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobWatchers:
    """Who watches which job. A slow watcher misses states in between, and holds one flag."""

    def __init__(self) -> None:
        self._wakes: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    @property
    def count(self) -> int:
        """How many watch now."""
        return sum(len(wakes) for wakes in self._wakes.values())

    def changed(self, job_id: str) -> None:
        """Wake those who watch this job."""
        for wake in self._wakes.get(job_id, ()):
            wake.set()

    def close(self) -> None:
        """The daemon ends: everyone gets the last state, then their end."""
        self._closed = True
        for job_id in tuple(self._wakes):
            self.changed(job_id)

    async def watch(self, job_id: str, latest: Callable[[], Job]) -> AsyncGenerator[Job, None]:
        """The job now and each time it changed, until it has ended or `close` was called.

        Args:
            latest: reads the job as it is.
        """
        wake = asyncio.Event()
        self._wakes.setdefault(job_id, set()).add(wake)
        told: Job | None = None
        try:
            while True:
                wake.clear()
                job = latest()
                if job != told:
                    told = job
                    yield job
                    continue  # it may have changed while that was taken
                if job.state in ENDED or self._closed:
                    return
                await wake.wait()
        finally:
            self._wakes[job_id].discard(wake)
            if not self._wakes[job_id]:
                del self._wakes[job_id]
