"""Connects to engines: HTTP/1.1 over Unix sockets, as a bare asyncio protocol.

`peers.hop` connects to the proxies of other hosts by the same code.

There is no task and no future per piece: received bytes go straight to the `Receiver`, or, once a
stream's content flows, straight to the client's transport. This fast way is taken only if a read
holds exactly one whole chunk of whole events without any of the dialect's markers, which is how
engines write their events. The received bytes are then relayed unchanged, including the chunk
frame. All other bytes take the careful way through `framing` and `events`.
"""

import asyncio
import collections
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from partitiond.platform.unix_socket import socket_address
from partitiond.proxy.engine.framing import SIZES, AnswerParser, FramingError, Head
from partitiond.proxy.request.dialects import Markers
from partitiond.proxy.request.errors import AttemptError

CONNECT_SECONDS: Final = 5.0
"""Longest time to connect to an engine; only one that hangs takes long. Chosen."""
IDLE_SECONDS: Final = 4.0
"""Idle connections are closed after this time, before engines close them after 5 s (uvicorn's)."""
FINISH_SECONDS: Final = 1.0
"""Time for an answer to end on the wire, after its end has already been sent to the client."""

_logger = logging.getLogger("partitiond.proxy")

_CLOSED_EARLY: Final = "The engine closed the connection before its answer was complete."


class Receiver(Protocol):
    """The reader of an answer. Either `received_failure` or `received_end` is its last call."""

    def received_note(self, head: Head) -> None:
        """Take the head of an answer that precedes the real one."""
        ...

    def received_head(self, head: Head) -> None:
        """Take the complete head."""
        ...

    def received_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        ...

    def received_end(self) -> None:
        """Take the end of the complete answer."""
        ...

    def received_failure(self, failure: AttemptError) -> None:
        """Take the failure of an answer that will never be complete."""
        ...

    def on_bug(self) -> None:
        """End after a bug of ours while the answer was read; called inside `except`."""
        ...


class UpstreamConnection:
    """One connection, which carries one request at a time.

    It implements `asyncio.Protocol` without inheriting it, because a compiled class (see
    `partitiond.native`) can inherit only from compiled ones.

    Attributes:
        fast_pieces, fast_bytes: of the current answer, that took the fast way.
        complete: the current answer was received to its end.
        idle_since: when the connection was given back, by the event loop's clock.
    """

    __slots__ = (
        "_head", "_markers", "_parser", "_pool", "_receiver", "_write",
        "closed", "complete", "fast_bytes", "fast_pieces", "got_bytes", "idle_since", "transport",
    )  # fmt: skip

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool
        self.fast_pieces = self.fast_bytes = 0
        self._receiver: Receiver | None = None
        self._write: Callable[[bytes], object] | None = None
        self._markers: Markers = (b"", b"", b"", b"", b"", b"")
        self._parser = AnswerParser()
        self._head: Head | None = None
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.complete = True
        self.got_bytes = False
        self.idle_since = 0.0

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the open connection."""
        # uvloop's transports are no subclasses of asyncio's, so there is no isinstance here.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Relay the bytes unchanged, or parse them and pass them on."""
        try:
            write = self._write
            if write is not None and data.endswith(b"\n\n\r\n"):
                at = data.find(b"\r\n", 0, 8)
                size = SIZES.get(data[:at])
                if size is not None and size + at + 4 == len(data):
                    first, second, third, fourth, fifth, sixth = self._markers
                    if (
                        first not in data
                        and second not in data
                        and third not in data
                        and fourth not in data
                        and fifth not in data
                        and sixth not in data
                    ):
                        self.fast_pieces += 1
                        self.fast_bytes += size
                        write(data)
                        return
            self._take(data)
        except Exception:  # noqa: BLE001 -- logged by whose answer it is
            self._on_bug(self._receiver)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Note that the connection was closed by either side."""
        self.closed = True
        try:
            self._lost()
        except Exception:  # noqa: BLE001 -- logged by whose answer it is
            self._on_bug(self._receiver)

    def _lost(self) -> None:
        self._pool.lost(self)
        if self._receiver is None:
            return
        head = self._head
        if head is not None and head.length is None and not head.chunked:
            head.exact = False
            self._end()  # the body ends with the connection
            return
        kind = "truncated" if head is not None else "reset"
        self._fail(AttemptError(kind, _CLOSED_EARLY, no_byte=not self.got_bytes))

    def eof_received(self) -> None:
        """Close when the engine sends no more, as asyncio does by default."""

    def pause_writing(self) -> None:
        """Ignored: a request's body is bounded, and we keep it in any case."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # Calls of an attempt

    def send(self, data: bytes, receiver: Receiver) -> None:
        """Send a request, and pass the answer to the receiver."""
        self._receiver = receiver
        self._head = None
        self._parser.begin()
        self.complete = False
        self.got_bytes = False
        self.fast_pieces = self.fast_bytes = 0
        if self.closed or self.transport is None:
            self._fail(AttemptError("reset", "The engine closed the connection.", no_byte=True))
            return
        self.transport.write(data)

    def open_fast_way(self, write: Callable[[bytes], object], markers: Markers) -> None:
        """Send plain pieces straight to `write` from now on, unless a chunk is incomplete."""
        if self._parser.at_boundary and self._head is not None and self._head.chunked:
            self._write, self._markers = write, markers

    def pause(self) -> None:
        """Read nothing for now: the kernel's buffer fills, and the engine's writes wait."""
        if self.transport is not None and not self.closed:
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()

    def let_go(self) -> None:
        """Ignore the rest of this answer; its client has received all of it already."""
        self._receiver = None
        self._write = None

    def close(self) -> None:
        """Close at once; to the engine this means that the client has left."""
        self.let_go()
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        head = self._head
        return self.complete and not self.closed and head is not None and head.keep_alive

    # The careful way

    def _take(self, data: bytes) -> None:
        self._write = None
        if self.complete:
            self.close()  # an answer without a request
            self._pool.lost(self)
            return
        self.got_bytes = True
        try:
            for head in self._parser.feed(data):
                self._take_head(head)
            if self._head is not None:
                self._take_body(self._head)
        except FramingError as error:
            self._fail(AttemptError("bad_response", f"The engine's answer is not HTTP: {error}."))
            self.close()

    def _take_head(self, head: Head) -> None:
        if head.status >= 200:
            self._head = head
        if self._receiver is None:
            return
        if head.status >= 200:
            self._receiver.received_head(head)
        else:  # the real one follows
            self._receiver.received_note(head)

    def _take_body(self, head: Head) -> None:
        parser = self._parser
        if parser.surplus:
            head.keep_alive = head.exact = False
        body = parser.take_body()
        if body and self._receiver is not None:
            self._receiver.received_body(body)
        if parser.is_over and not self.complete and not self.closed:
            head.hop = parser.hop or head.hop
            self._end()

    def _end(self) -> None:
        self.complete = True
        self._write = None
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            self._pool.finished(self)
            return
        try:
            receiver.received_end()
        except Exception:  # noqa: BLE001 -- logged by whose answer it is
            self._on_bug(receiver)

    def _fail(self, failure: AttemptError) -> None:
        self._write = None
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        try:
            receiver.received_failure(failure)
        except Exception:  # noqa: BLE001 -- logged by whose answer it is
            self._on_bug(receiver)

    def _on_bug(self, receiver: Receiver | None) -> None:
        """End the request after a bug of ours, lest it hang; call it inside `except`."""
        self.close()
        self._pool.lost(self)
        if receiver is not None:
            receiver.on_bug()
        else:
            _logger.exception("a connection to an engine failed inside the proxy")


class ConnectionPool:
    """The connections to one engine process. A new process of the same name gets a new pool."""

    connect_seconds = CONNECT_SECONDS
    idle_seconds = IDLE_SECONDS

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self._idle: collections.deque[UpstreamConnection] = collections.deque()
        self._finishing: dict[UpstreamConnection, asyncio.TimerHandle] = {}
        self._closed = False

    def reuse(self, now: float) -> UpstreamConnection | None:
        """Return the most recently used open connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and now - connection.idle_since < self.idle_seconds:
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """Open a new connection. Raises AttemptError."""
        try:
            async with asyncio.timeout(self.connect_seconds):
                connection = await self._open()
        except TimeoutError as error:
            raise AttemptError(
                "connect_timeout", "The engine did not accept a connection in time.", no_byte=True
            ) from error
        except OSError as error:
            raise AttemptError(
                "connect", "The engine cannot be reached at the moment.", no_byte=True
            ) from error
        return connection

    async def _open(self) -> UpstreamConnection:
        connection = UpstreamConnection(self)
        protocol = cast("asyncio.Protocol", connection)
        with socket_address(self.socket_path) as address:
            await asyncio.get_running_loop().create_unix_connection(lambda: protocol, address)
        return connection

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """Take back a connection whose answer was relayed to its end.

        The client may have received the end (`[DONE]`) before the engine ended the answer on the
        wire; the connection is then kept aside for a moment, but the request does not wait for it.
        """
        connection.let_go()
        if not self._closed and connection.reusable:
            connection.idle_since = now
            self._idle.append(connection)
        elif self._closed or connection.closed or connection.complete:
            connection.close()
        else:
            loop = asyncio.get_running_loop()
            self._finishing[connection] = loop.call_later(FINISH_SECONDS, connection.close)

    def finished(self, connection: UpstreamConnection) -> None:
        """Take back a connection that was kept aside, once its answer has ended."""
        timer = self._finishing.pop(connection, None)
        if timer is not None:
            timer.cancel()
            self.release(connection, asyncio.get_running_loop().time())

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection if the pool holds it."""
        timer = self._finishing.pop(connection, None)
        if timer is not None:
            timer.cancel()
        elif connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close idle connections now, and connections in use when they come back."""
        self._closed = True
        for timer in self._finishing.values():
            timer.cancel()
        kept = [*self._finishing, *self._idle]
        self._finishing.clear()
        self._idle.clear()
        for connection in kept:
            connection.close()
