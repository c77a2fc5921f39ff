"""Connections to engines: HTTP/1.1 over Unix sockets, as a bare protocol without per-chunk tasks.

One reader per connection waits on one future. Data that nobody has asked for yet is kept up to
`HIGH_WATER_BYTES`; then the socket is no longer read, so that a slow client slows its own engine
stream (the kernel's socket buffer fills, the engine's write waits) instead of filling memory here.
"""

import asyncio
import collections
from typing import Final, cast

import httptools

from partitiond.proxy.errors import AttemptError

HIGH_WATER_BYTES: Final = 64 * 1024
"""Unread bytes kept per connection; the same as asyncio's default for writing."""

FINISH_SECONDS: Final = 1.0
"""An answer whose end the client has already got may take so long to end on the wire, too."""


class UpstreamConnection(asyncio.Protocol):
    """One connection; carries one request at a time.

    Attributes:
        status: of the answer, 0 before its head is complete.
        content_type: of the answer.
        got_bytes: anything came back for this request.
        complete: the answer was received to its end.
    """

    __slots__ = (
        "_chunks", "_failure", "_keep_alive", "_loop", "_parser", "_paused", "_size", "_waiter",
        "closed", "complete", "content_type", "got_bytes", "on_idle", "status", "transport",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._failure: AttemptError | None = None
        self._paused = False
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.on_idle: ConnectionPool | None = None
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.content_type = b""
        self.got_bytes = False
        self.complete = False
        self._keep_alive = False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        # uvloop's transports are no subclasses of asyncio's, so there is no isinstance here.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, keep, wake the reader; stop reading when nobody reads."""
        if self.complete and self.on_idle is not None:
            self.close()  # an answer nobody asked for
            return
        self.got_bytes = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(AttemptError("bad_response", "The engine's answer is not HTTP."))
            self.close()
        if self._size > HIGH_WATER_BYTES and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Closed, by whomever."""
        self.closed = True
        if not self.complete:
            kind = "truncated" if self.status else "reset"
            self.fail(
                AttemptError(
                    kind,
                    "The engine closed the connection before its answer was complete.",
                    no_byte=not self.got_bytes,
                )
            )
        if self.on_idle is not None:
            self.on_idle.forget(self)

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that matters."""
        if name.lower() == b"content-type":
            self.content_type = value

    def on_headers_complete(self) -> None:
        """The status is known; 1xx answers are followed by the real one."""
        status = self._parser.get_status_code()
        self.status = 0 if status < 200 else status

    def on_body(self, body: bytes) -> None:
        """Keep a piece until it is read."""
        self._chunks.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """The answer ended; the connection may serve again if both sides keep it open."""
        if self.status:
            self.complete = True
            # Asked here, because the parser forgets the head once the message is over.
            self._keep_alive = bool(self._parser.should_keep_alive())
            if self.on_idle is not None:
                self.on_idle.finished(self)

    # What the relay calls

    def send(self, head: bytes, body: bytes) -> None:
        """Send a request."""
        self._reset()
        if self.closed or self.transport is None:
            self.fail(AttemptError("reset", "The engine closed the connection.", no_byte=True))
            return
        self.transport.write(head + body)

    async def wait_head(self) -> None:
        """Wait until `status` is known. Raises AttemptError."""
        while not self.status:
            await self._wait()

    async def read(self) -> bytes:
        """What has arrived, at least one byte; empty at the end. Raises AttemptError."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused and self.transport is not None and not self.closed:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole answer. Raises AttemptError, also when it is larger than the limit."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > limit_bytes:
                raise AttemptError("bad_response", "The engine's answer is too large.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fail(self, failure: AttemptError) -> None:
        """Make the reader raise, now or at its next read; the first failure counts."""
        if self._failure is None:
            self._failure = failure
        self._wake()

    def close(self) -> None:
        """Close at once; an engine takes that as the client having left."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return (
            self.complete
            and not self.closed
            and self._failure is None
            and not self._chunks
            and self._keep_alive
        )

    def drop_unread(self) -> None:
        """Forget what nobody will read (bytes after the end that the client already got)."""
        self._chunks.clear()
        self._size = 0

    async def _wait(self) -> None:
        self._raise_failure()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self._chunks:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ConnectionPool:
    """Connections to one engine process. A new process behind the name gets a new pool."""

    def __init__(
        self, socket_path: str, *, connect_timeout_seconds: float, idle_seconds: float
    ) -> None:
        self.socket_path = socket_path
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle_seconds = idle_seconds
        self._idle: collections.deque[tuple[UpstreamConnection, float]] = collections.deque()
        self._finishing: dict[UpstreamConnection, asyncio.TimerHandle] = {}
        self._closed = False

    def reuse(self) -> UpstreamConnection | None:
        """An open connection, the most recently used one, or None."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.closed and now - since < self._idle_seconds:
                connection.on_idle = None
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """A fresh connection. Raises AttemptError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                _, connection = await loop.create_unix_connection(
                    lambda: UpstreamConnection(loop), self.socket_path
                )
        except TimeoutError as error:
            raise AttemptError(
                "connect_timeout", "The engine did not accept a connection in time.", no_byte=True
            ) from error
        except OSError as error:
            raise AttemptError(
                "connect", "The engine cannot be reached at the moment.", no_byte=True
            ) from error
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer was relayed to its end.

        The client may have got its end (`[DONE]`) before the engine ended the answer on the
        wire; the connection is then kept aside for a moment, not waited for.
        """
        connection.drop_unread()
        if not self._closed and connection.reusable:
            connection.on_idle = self
            self._idle.append((connection, asyncio.get_running_loop().time()))
        elif self._closed or connection.closed or connection.complete:
            connection.close()
        else:
            connection.on_idle = self
            loop = asyncio.get_running_loop()
            self._finishing[connection] = loop.call_later(FINISH_SECONDS, connection.close)

    def finished(self, connection: UpstreamConnection) -> None:
        """A connection kept aside has got the end of its answer."""
        timer = self._finishing.pop(connection, None)
        if timer is not None:
            timer.cancel()
            self.release(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection in our keeping was closed by the engine."""
        timer = self._finishing.pop(connection, None)
        if timer is not None:
            timer.cancel()
        for entry in self._idle:
            if entry[0] is connection:
                self._idle.remove(entry)
                break

    def close(self) -> None:
        """Close what is idle; connections in use are closed when they come back."""
        self._closed = True
        for timer in self._finishing.values():
            timer.cancel()
        for connection in [*self._finishing, *(entry[0] for entry in self._idle)]:
            connection.close()
        self._finishing.clear()
        self._idle.clear()

    def __len__(self) -> int:
        return len(self._idle)
