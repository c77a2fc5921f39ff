"""Implements an HTTP/1.1 connection as an asyncio protocol, kept alive between requests."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from loadgen.http.http1 import AnswerReader, HttpError
from loadgen.http.sse import StreamReader, error_message
from loadgen.http.target import Target
from loadgen.results.records import Outcome, Record

REFUSALS: Final = frozenset({429, 503})
MAX_ERROR_BODY_BYTES: Final = 64 * 1024
MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""Beyond any answer to one request; its usage comes last."""

now: Final = time.perf_counter
"""The clock of all records. Not `loop.time()`: uvloop's has millisecond steps."""


class StaleConnectionError(Exception):
    """The server closed a kept-alive connection before any byte of an answer; try a new one."""


class Connection(asyncio.Protocol):
    """Sends one request at a time and fills its record."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = AnswerReader()
        self._record: Record | None = None
        self._reader: StreamReader | None = None
        self._finished: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._is_stream: bool | None = None
        self._streams = True
        self._used = False
        self._heard = False
        self.alive = False

    async def request(
        self,
        raw: bytes,
        record: Record,
        on_tokens: Callable[[float, int], None] | None,
        *,
        streams: bool = True,
    ) -> None:
        """Send the bytes and return when the answer has ended; the record says how it ended.

        Args:
            raw: head and body.
            record: filled while the answer comes.
            on_tokens: called with the time and the number of tokens of each chunk.
            streams: whether the answer has to be a stream of tokens, or one JSON document.

        Raises:
            StaleConnectionError: a reused connection turned out to be closed.
        """
        assert self._transport is not None
        self._record, self._reader = record, StreamReader(record, on_tokens)
        self._answer, self._is_stream, self._streams = AnswerReader(), None, streams
        self._body.clear()
        self._heard = False
        self._finished = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        record.sent = now()
        try:
            await self._finished
        finally:
            self._finished, self._used = None, True

    def abort(self) -> None:
        """Drop the connection at once; the server sees a client that left."""
        self.alive = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport; send small writes at once."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._transport, self.alive = cast(asyncio.Transport, transport), True
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; drop the connection if they come outside a request."""
        if self._finished is None or self._finished.done():
            self.abort()
            return
        self._heard = True
        # The clock is read once for all bytes that came together: none of them came earlier.
        at = now()
        if self._is_stream and self._answer.between_chunks:
            assert self._reader is not None
            if self._reader.chunk(data, at):
                return
        try:
            pieces = self._answer.feed(data)
        except HttpError as error:
            self._fail(f"the answer is not HTTP: {error}")
            self.abort()
            return
        if self._is_stream is None and self._answer.status:
            self._note_head()
        if self._is_stream:
            assert self._reader is not None
            for piece in pieces:
                self._reader.feed(piece, at)
        else:
            most = MAX_ERROR_BODY_BYTES if self._streams else MAX_DOCUMENT_BYTES
            self._body += b"".join(pieces)[: most - len(self._body)]
        if self._answer.complete:
            self._end_answer()

    def eof_received(self) -> bool:
        """Close the connection when the server closes it."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request in flight as stale, as cut off, or as complete without a length."""
        self.alive = False
        if self._finished is None or self._finished.done():
            return
        if self._used and not self._heard:
            self._finished.set_exception(StaleConnectionError())
        elif self._answer.end_of_stream() or (self._reader is not None and self._reader.done):
            self._end_answer()
        else:
            self._fail(f"the connection was cut: {exc or 'closed by the server'}")

    def _note_head(self) -> None:
        record, answer = self._record, self._answer
        assert record is not None
        record.status = answer.status
        record.retry_after = answer.headers.get(b"retry-after", b"").decode("latin-1")
        record.replica = answer.headers.get(b"x-partitiond-replica", b"").decode("latin-1")
        kind = answer.headers.get(b"content-type", b"").lower()
        self._is_stream = answer.status == 200 and kind.startswith(b"text/event-stream")

    def _end_answer(self) -> None:
        """Decide how the request ended and wake its sender."""
        record, reader = self._record, self._reader
        assert record is not None
        assert reader is not None
        self.alive = self.alive and self._answer.keep_alive
        if record.status in REFUSALS:
            self._end(Outcome.REFUSED, error_message(bytes(self._body)))
        elif record.status != 200:
            self._fail(f"HTTP {record.status}: {error_message(bytes(self._body))}")
        elif not self._streams:
            # One whose connection was closed in the middle has no end either.
            body = bytes(self._body).strip()
            if self._is_stream or not (body.startswith(b"{") and body.endswith(b"}")):
                self._fail(f"the answer is no JSON document: {error_message(body)}")
            else:
                reader.document(body, now())
                self._end(Outcome.OK, "")
        elif not self._is_stream:
            self._fail(f"the answer is no event stream: {error_message(bytes(self._body))}")
        elif reader.error:
            self._fail(f"error event: {reader.error}")
        elif not reader.done:
            self._fail("the stream ended without [DONE]")
        else:
            self._end(Outcome.OK, "")

    def _fail(self, message: str) -> None:
        self._end(Outcome.ERROR, message)

    def _end(self, outcome: Outcome, error: str) -> None:
        record, finished = self._record, self._finished
        if record is None or finished is None or finished.done():
            return
        record.outcome, record.error, record.end = outcome, error, now()
        finished.set_result(None)


async def connect(target: Target) -> Connection:
    """Open one connection. Raises OSError if the target does not answer."""
    loop = asyncio.get_running_loop()
    if target.socket_path:
        _, connection = await loop.create_unix_connection(Connection, target.socket_path)
        return connection
    context = ssl.create_default_context() if target.tls else None
    _, connection = await loop.create_connection(Connection, target.host, target.port, ssl=context)
    return connection
