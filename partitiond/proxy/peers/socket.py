"""Sends and receives frames on one connection between the proxies of two hosts.

Frames that are sent within one turn of the event loop leave in one write, so in one TLS record: the
pieces of many streams share its cost.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, cast

from partitiond.proxy.peers import frames
from partitiond.proxy.peers.frames import HEADER, FrameReader
from partitiond.proxy.peers.messages import PROTOCOL, Hello, encode, read_hello

HELLO_SECONDS: Final = 5.0
"""Time for a new connection until the other side has said who it is. Chosen."""

_logger = logging.getLogger("partitiond.proxy")


class PeerSocket:
    """One end of a connection.

    It implements `asyncio.Protocol` without inheriting it, as `UpstreamConnection` does.

    Attributes:
        peer: name of the other side's host, once it said it and was let in.
        called: name of the host that was called, or that the other side says it is.
        transport: once the connection is open.
        closed: nothing can be sent any more.
        heard_at: when bytes came last, by `time.monotonic`.
        write_paused: the other side does not read fast enough.
    """

    def __init__(self, own: Hello) -> None:
        self._own = own
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.transport: asyncio.Transport | None = None
        self._is_flush_due = False
        self._sent_bytes = 0
        self._taken = (0, 0.0)
        self.peer = ""
        self.called = ""
        self.closed = False
        self.heard_at = time.monotonic()
        self.write_paused = False

    # Differences between the sides

    def greeted(self, hello: Hello) -> str:
        """Take the other side's word who it is; return why it is refused, or empty."""
        raise NotImplementedError

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Take a frame. Raises ValueError if it makes no sense: the connection is then closed."""
        raise NotImplementedError

    def gone(self) -> None:
        """End what the connection carried."""
        raise NotImplementedError

    def in_flight(self) -> int:
        """Return the number of requests on the connection."""
        raise NotImplementedError

    def writing_paused(self, *, paused: bool) -> None:
        """Note that the other side reads too slowly, or reads again."""

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        self.transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(HELLO_SECONDS, self._check_greeted)
        self.send(frames.HELLO, 0, encode(self._own))

    def data_received(self, data: bytes) -> None:
        """Take the frames in the data."""
        self.heard_at = time.monotonic()
        try:
            for kind, number, payload in self._reader.feed(data):
                if self.closed:
                    return
                if self.peer:
                    self.take(kind, number, payload)
                else:
                    self._greet(kind, payload)
        except (ValueError, RecursionError) as error:  # of the frames, or of a message in them
            self.close(f"sent what is no message: {error}")
        except Exception:
            _logger.exception("a connection to a peer failed inside the proxy")
            self.close("")

    def eof_received(self) -> None:
        """Close when the other side sends no more, as asyncio does by default."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """End what the connection carried."""
        self.closed = True
        self._out = []
        self.gone()

    def pause_writing(self) -> None:
        """Stop the sources, because the other side does not read."""
        self.write_paused = True
        self.writing_paused(paused=True)

    def resume_writing(self) -> None:
        """Start the sources again."""
        self.write_paused = False
        self.writing_paused(paused=False)

    # Sending

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame with the next write."""
        if self.closed:
            return
        out = self._out
        out.append(HEADER.pack(len(payload), kind, number))
        out.append(payload)
        if not self._is_flush_due and self._loop is not None:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_due)

    def send_last(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame that completes what the other side waits for: at once, if no other request
        of the connection could share the write. The sender's books can wait, the client cannot.
        """
        if self.in_flight() > 1:
            self.send(kind, number, payload)
        elif not self.closed:
            self._out.append(HEADER.pack(len(payload), kind, number))
            self._out.append(payload)
            self._flush()

    def chunk_writer(self, number: int) -> Callable[[bytes], object]:
        """Return a function that sends raw chunks of a stream."""
        pack, kind, most = HEADER.pack, frames.CHUNK, frames.MAX_PAYLOAD_BYTES

        def write(data: bytes) -> None:
            if len(data) > most:
                at = data.find(b"\r\n")
                self.send_pieces(number, data[at + 2 : -2])
                return
            if self.closed:
                return
            out = self._out
            out.append(pack(len(data), kind, number))
            out.append(data)
            if not self._is_flush_due and self._loop is not None:
                self._is_flush_due = True
                self._loop.call_soon(self._flush_due)

        return write

    def send_pieces(self, number: int, data: bytes) -> None:
        """Send a part of an answer's body, which may be larger than a frame."""
        for at in range(0, len(data), frames.MAX_PAYLOAD_BYTES):
            self.send(frames.PIECE, number, data[at : at + frames.MAX_PAYLOAD_BYTES])

    def _flush_due(self) -> None:
        self._is_flush_due = False
        self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self.closed and self.transport is not None:
            data = b"".join(out)
            self._sent_bytes += len(data)
            self.transport.write(data)

    def unread_seconds(self, now: float) -> float:
        """Return for how long the other side has read nothing of what waits for it; 0 if nothing
        waits.

        Call it now and then: it compares with the call before.

        Args:
            now: monotonic seconds.
        """
        if self.transport is None or not self.write_paused:
            self._taken = (self._sent_bytes, now)
            return 0.0
        taken = self._sent_bytes - self.transport.get_write_buffer_size()
        if taken > self._taken[0] or not self._taken[1]:
            self._taken = (taken, now)
        return now - self._taken[1]

    # Ends

    def close(self, reason: str) -> None:
        """End the connection at once.

        Args:
            reason: why, for the log; empty for no line.
        """
        if self.closed:
            return
        if reason:
            self.log_end(reason)
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def log_end(self, reason: str) -> None:
        """Log why the connection ends."""
        name = self.called[:64] or "unknown"
        _logger.warning("the connection to the proxy of host %s ends: it %s", name, reason)

    def finish(self) -> None:
        """End the connection once what was sent is on its way."""
        self._flush()
        self.closed = True
        if self.transport is not None:
            self.transport.close()

    def _greet(self, kind: int, payload: bytes) -> None:
        if kind != frames.HELLO:
            raise ValueError("it did not say who it is")
        hello = read_hello(payload)
        self.called = self.called or hello.host
        why = (
            f"speaks version {hello.protocol} of the protocol, not {PROTOCOL}"
            if hello.protocol != PROTOCOL
            else "has no name"
            if not hello.host
            else self.greeted(hello)
        )
        if why:
            self.close(why)
        else:
            self.peer = hello.host

    def _check_greeted(self) -> None:
        if not self.peer:
            self.close("did not say in time who it is")
