"""Streams the progress of a solve, and then the plan, as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from partitiond.api.errors import problem, status_of
from partitiond.api.streams import HEARTBEAT, HEARTBEAT_SECONDS, MEDIA_TYPE, event
from partitiond.core.errors import PartitiondError
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.views.preview import PlanPreview

OnProgress = Callable[[PlanProgress], None]
Start = Callable[[OnProgress], Awaitable[PlanPreview]]

OPENAPI: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The plan; or, for who accepts text/event-stream, events `progress` (what "
        "is being planned, the best value and bound so far) and at the end one `plan` with the "
        "same answer, or one `problem`. Closing the stream ends the solve.",
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": 'event: progress\ndata: {"title": "the plan", "value": 9, ...}\n\n'
                'event: plan\ndata: {"plan": ..., "diff": ..., "answers": ...}\n\n',
            }
        },
    }
}


async def plan_events(
    start: Start, path: str, *, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[bytes, None]:
    """Yield a solve as server-sent events. Closing the generator early ends the solve.

    Args:
        start: begins the solve; its argument is the callback for progress.
        path: of the request, for problems.
        heartbeat_seconds: longest silence.
    """
    latest: list[PlanProgress] = []
    news = asyncio.Event()

    def take(progress: PlanProgress) -> None:
        latest[:] = [progress]  # a slow reader gets the newest progress, not a backlog
        news.set()

    solve = asyncio.ensure_future(start(take))
    solve.add_done_callback(lambda _: news.set())
    try:
        while not solve.done():
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await news.wait()
            except TimeoutError:
                yield HEARTBEAT
                continue
            news.clear()
            if latest:
                yield event("progress", latest.pop())
        yield _end(solve, path)
    finally:
        solve.cancel()
        await asyncio.wait({solve})


def _end(solve: "asyncio.Future[PlanPreview]", path: str) -> bytes:
    error = solve.exception()
    if error is None:
        return event("plan", solve.result())
    if not isinstance(error, PartitiondError):
        raise error
    body = problem(status_of(error), error.code, error.message, error.hint, error.facts)
    return event("problem", body | {"instance": path})
