"""Streams changes of a plan's convergence as server-sent events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from partitiond.api.replies import NO_STORE
from partitiond.serde import to_jsonable

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 10.0
"""Interval of comments while nothing changes: proxies close connections that are silent for a
minute, and a client that misses several comments knows that the daemon is gone."""
HEARTBEAT: Final = b": nothing new\n\n"


class Watched(Protocol):
    """A value that can be watched: it has a state, and other fields that change within a state."""

    @property
    def state(self) -> str:
        """The current state."""
        ...


def wants_stream(accept: str) -> bool:
    """Whether a request asks for events rather than one answer."""
    return MEDIA_TYPE in accept.lower()


class EventStream(StreamingResponse):
    """A response with the events of a generator, which is always closed when the stream ends."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # Otherwise nginx would buffer the events into blocks.
        headers = {**NO_STORE, "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type=MEDIA_TYPE)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the generator ends or the client leaves."""
        async with contextlib.aclosing(self._events):
            await super().__call__(scope, receive, send)


def event(name: str, value: object) -> bytes:
    """One event; JSON escapes line breaks, so one data line holds the whole value."""
    data = json.dumps(to_jsonable(value), ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


async def changes(
    states: AsyncGenerator[Watched, None], *, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[bytes, None]:
    """Yield the changes of a watched value as server-sent events.

    Args:
        states: yields the value now, and each time it changes.
        heartbeat_seconds: longest silence.
    """
    before: str | None = None
    step: asyncio.Task[Watched | None] | None = None
    async with contextlib.aclosing(states):
        try:
            while True:
                if step is None:
                    step = asyncio.create_task(_next(states))
                done, _ = await asyncio.wait({step}, timeout=heartbeat_seconds)
                if not done:
                    yield HEARTBEAT
                    continue
                now, step = step.result(), None
                if now is None:
                    return
                yield event("progress" if now.state == before else "state", now)
                before = now.state
        finally:
            if step is not None:
                step.cancel()
                await asyncio.wait({step})


async def _next(states: AsyncGenerator[Watched, None]) -> Watched | None:
    return await anext(states, None)
