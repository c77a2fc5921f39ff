"""What goes back to the client, and what is remembered of it."""

import dataclasses
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from partitiond.proxy.auth import Caller
from partitiond.proxy.errors import ApiError
from partitiond.proxy.live import Flight, LiveModel
from partitiond.proxy.requests import GenerationRequest

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_HEADER: Final = (b"content-type", b"application/json")


class Answer:
    """What goes to the client, over ASGI's `send`."""

    __slots__ = ("_headers", "_send", "ended", "request_id", "started", "status", "streaming")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self._headers = [(b"x-request-id", request_id.encode())]
        self.started = False
        self.streaming = False
        self.ended = False
        self.status = 0

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        self.started = True
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": self._headers + headers,
            }
        )

    async def piece(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        self.streaming = True
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def whole(
        self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Send a complete answer."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, [*([JSON_HEADER] if headers is None else headers), length])
        await self.end(body)

    async def error(self, error: ApiError) -> None:
        """Send an error: as an answer, or as the end of a stream that has begun."""
        if self.streaming and not self.ended:
            await self.end(error.event())
        elif not self.started:
            await self.whole(error.status, error.body(), error.headers())


class Result:
    """How a request ended, for the log and the metrics.

    Attributes:
        outcome: ok, failed, refused, invalid or client_gone.
        error: code of the error, or empty.
        replica_id: the last replica tried.
        ttft_seconds: of a stream, or None.
        queue_seconds: until the first replica was found, or None.
        service_seconds: on the last replica, where the engine ended the answer, or None.
        chunks, events: pieces sent to the client, and events in them.
        usage: (prompt tokens, output tokens) as the engine reported, or None.
    """

    __slots__ = (
        "chunks", "error", "events", "outcome", "queue_seconds", "replica_id", "service_seconds",
        "ttft_seconds", "usage",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcome = "failed"
        self.error = ""
        self.replica_id = ""
        self.ttft_seconds: float | None = None
        self.queue_seconds: float | None = None
        self.service_seconds: float | None = None
        self.chunks = 0
        self.events = 0
        self.usage: tuple[int, int] | None = None


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One request with everything that belongs to it."""

    caller: Caller
    model: LiveModel
    request: GenerationRequest
    body: bytes
    flight: Flight
    answer: Answer
    result: Result
