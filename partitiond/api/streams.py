"""Server-sent events: a job's changes as they happen."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from partitiond.api.replies import NO_STORE
from partitiond.ports import Job, JobState
from partitiond.serde import to_jsonable

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 10.0
"""Comments while nothing changes: proxies close connections that are silent for a minute, and a
client that hears nothing for several of these knows that the daemon is gone."""
HEARTBEAT: Final = b": nothing new\n\n"
_ID_DIGITS: Final = 15
"""Longer ids are not ours."""

OPENAPI: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events `state` and `progress`, each with the whole job in `data`. The "
        "first one is the job as it is; the stream ends after the state in which the job has "
        "ended, or when the daemon ends.",
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": "id: 1\nevent: state\ndata: "
                '{"id": "job-7", "state": "running", ...}\n\n'
                'id: 2\nevent: progress\ndata: {"id": "job-7", "state": "running", ...}\n\n',
            }
        },
    }
}


class EventStream(StreamingResponse):
    """Events of a generator, which is closed however the stream ends."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # nginx would collect the events into blocks otherwise.
        headers = {**NO_STORE, "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type=MEDIA_TYPE)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the generator or the client ends."""
        async with contextlib.aclosing(self._events):
            await super().__call__(scope, receive, send)


async def job_events(
    jobs: AsyncGenerator[Job, None],
    *,
    last_event_id: str | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncGenerator[bytes, None]:
    """A watched job as server-sent events.

    Args:
        jobs: the job now and each time it changes.
        last_event_id: what a client that comes back has seen. Nothing is repeated for it, because
            the first event is the whole job as it is now; ids only go on from there.
        heartbeat_seconds: longest silence.
    """
    number = _number(last_event_id)
    before: JobState | None = None
    step: asyncio.Task[Job | None] | None = None
    async with contextlib.aclosing(jobs):
        try:
            while True:
                if step is None:
                    step = asyncio.create_task(_next(jobs))
                done, _ = await asyncio.wait({step}, timeout=heartbeat_seconds)
                if not done:
                    yield HEARTBEAT
                    continue
                job, step = step.result(), None
                if job is None:
                    return
                number += 1
                yield _event(number, "progress" if job.state is before else "state", job)
                before = job.state
        finally:
            if step is not None:
                step.cancel()
                await asyncio.wait({step})


async def _next(jobs: AsyncGenerator[Job, None]) -> Job | None:
    return await anext(jobs, None)


def _number(last_event_id: str | None) -> int:
    text = last_event_id or ""
    known = text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS
    return int(text) if known else 0


def _event(number: int, name: str, job: Job) -> bytes:
    # JSON escapes line breaks, so one data line holds it all.
    data = json.dumps(to_jsonable(job), ensure_ascii=False, separators=(",", ":"))
    return f"id: {number}\nevent: {name}\ndata: {data}\n\n".encode()
