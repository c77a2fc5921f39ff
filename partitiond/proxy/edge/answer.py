"""Writes HTTP/1.1 answers straight to the client's transport.

Nothing here waits. Back-pressure for a client that reads slowly is applied at the source: the
engine's connection is not read while the client's buffer is full.
"""

import asyncio
import http
import json
from collections.abc import Callable
from typing import Final

from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.engine.framing import LAST_CHUNK
from partitiond.proxy.request.dialects import Dialect
from partitiond.proxy.request.errors import INVALID, ApiError

JSON: Final = b"application/json"
STREAM_HEAD: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)
WAITING: Final = b": waiting\n\n"
"""A comment: clients skip it, and whatever lies between them and us sees that they are served."""


_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}


class ClientSide:
    """The connection of a client, or of another host's proxy, as its requests see it.

    Attributes:
        address: the client's address, or empty.
        write_paused: the client does not read at the moment.
        was_opened: it has been a connection; before, its handshake runs.
    """

    transport: asyncio.Transport
    state: ProxyState
    address: str
    write_paused: bool
    was_opened: bool

    def request_over(self, request: object) -> None:
        """Go on after a request that has sent its answer, or whose client has left."""
        raise NotImplementedError

    def linger(self) -> None:
        """Take no further request: drop incoming bytes, then close."""
        raise NotImplementedError


def _refusal(status: int, body: bytes) -> ApiError:
    """Return what an engine refused a request with, for a client that has the head of a stream."""
    told = json.loads(body)["error"]
    code = told.get("code")  # vLLM repeats the status there
    return ApiError(
        status, told["message"], told.get("type") or INVALID, told.get("param"),
        code if isinstance(code, str) else None,
    )  # fmt: skip


class Answer:
    """One answer to a client; `peer_server.request` has that to the proxy of another host.

    Attributes:
        write: sends raw bytes; for a chunked stream, whole frames.
        chunked: streams are sent in chunks (not to HTTP/1.0 clients).
        keep_alive: the connection stays open afterwards; may be revoked until the head is sent.
        status: the status that was sent; 0 before the head is sent.
        streaming: a stream has begun and has not ended.
        is_promised: the client was told to wait: it has the head of a stream, and no event.
        ended: the answer is complete.
        extra: further headers, each with its line end.
        is_bodiless: the request was HEAD.
        whole_bytes: of the body, if it was sent as a whole.
    """

    __slots__ = (
        "_client", "_dialect", "chunked", "ended", "extra", "is_bodiless", "is_promised",
        "keep_alive", "request_id", "status", "streaming", "whole_bytes", "write",
    )  # fmt: skip

    def __init__(
        self, client: ClientSide, dialect: Dialect, request_id: str, *, keep_alive: bool,
        chunked: bool,
    ) -> None:  # fmt: skip
        self._client = client
        self._dialect = dialect
        self.write: Callable[[bytes], object] = client.transport.write
        self.request_id = request_id
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.status = 0
        self.streaming = False
        self.is_promised = False
        self.ended = False
        self.extra = b""
        self.is_bodiless = False
        self.whole_bytes = 0

    def _head(self, status: int, headers: bytes) -> bytes:
        self.status = status
        return b"%b%bx-request-id: %b\r\n%b%b\r\n" % (
            STATUS_LINES[status],
            self._client.state.head_lines(last=not self.keep_alive),
            self.request_id.encode(),
            self.extra,
            headers,
        )

    def whole(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Send a complete answer; a client that expects a stream gets an engine's refusal there."""
        if self.is_promised:
            self.error(_refusal(status, body))
            return
        length = b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
        self.ended = True
        self.whole_bytes = len(body)
        head = self._head(status, headers + length)
        self.write(head if self.is_bodiless else head + body)

    def empty(self, status: int, headers: bytes) -> None:
        """Send an answer that has no body by its status."""
        self.ended = True
        self.write(self._head(status, headers))

    def promise(self) -> None:
        """Tell a client that expects a stream that its request waits, as often as need be."""
        if self.is_promised:
            self.piece(WAITING)
        else:
            self._open(WAITING)
            self.is_promised = True

    def start_stream(self, first: bytes) -> None:
        """Send the head of a stream, if it was not sent, and its first events."""
        self.streaming = True
        if self.is_promised:
            self.is_promised = False
            self.piece(first)
        else:
            self._open(first)

    def _open(self, first: bytes) -> None:
        if self.chunked:
            head = self._head(200, STREAM_HEAD + b"transfer-encoding: chunked\r\n")
            self.write(b"%b%x\r\n%b\r\n" % (head, len(first), first))
        else:
            self.keep_alive = False
            self.write(self._head(200, STREAM_HEAD) + first)

    def piece(self, data: bytes) -> None:
        """Send further events of a stream."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def end_stream(self, data: bytes) -> None:
        """Send the last events of a stream, and its head if the stream has not begun."""
        if not self.streaming:
            self.start_stream(data)
            data = b""
        self.streaming = False
        self.ended = True
        if self.chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            self.write(chunk + LAST_CHUNK)
        elif data:
            self.write(data)

    def error(self, error: ApiError, opening: bytes = b"") -> None:
        """Send an error as an answer, or as the end of a stream that has begun."""
        if self.streaming or self.is_promised:
            self.end_stream(self._dialect.error_events(error, opening))
        elif not self.ended:
            self.keep_alive = self.keep_alive and not error.close
            headers = b"".join(b"%b: %b\r\n" % header for header in error.headers())
            self.whole(error.status, JSON, self._dialect.error_body(error), headers)
