"""Reads the requests of one connection, by HTTP/1.1 and one at a time.

The parser (`httptools`) calls a connection back for each part of a request. Clients' connections
(`data_protocol`) and those of other hosts' proxies (`peer_server`) are read so; what becomes of a
request is theirs to say. None takes a request while it answers another.
"""

import asyncio
from typing import Any, Final, cast

import httptools

from partitiond.proxy.edge.answer import ClientSide
from partitiond.proxy.edge.attempt import SMALL_ANSWER_BYTES
from partitiond.proxy.edge.exchange import Sender
from partitiond.proxy.edge.head_checks import head_too_large
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.edge.unread import UnreadAnswers
from partitiond.proxy.request.errors import ApiError

NO_HTTP: Final = ApiError(400, "The request is not valid HTTP.", code="invalid_http")


class RequestConnection(ClientSide):
    """One connection and its requests.

    It implements `asyncio.Protocol` without inheriting it, because a compiled class (see
    `partitiond.native`) can inherit only from compiled ones.

    Attributes:
        request: that is read or answered, or None.

    Args:
        max_head_bytes: larger heads end the connection.
    """

    def __init__(self, state: ProxyState, max_head_bytes: int) -> None:
        self.state = state
        self.address = ""
        self.was_opened = False
        self.write_paused = False
        self.request: Sender | None = None
        self._max_head_bytes = max_head_bytes
        self._unread = UnreadAnswers(state)
        self._parser: Any = self._new_parser()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._bodiless_bytes = 0
        """Received since the head, or since the last byte of a body: trailers, lines of chunks."""
        self._refusal: ApiError | None = None
        """Why the parser was stopped."""
        self._framing = b""
        """Body length header of a request that asked to upgrade, until the body is read."""
        self._repeats_head = False
        """The parser is given such a header, as of a request whose head is known already."""
        self._in_head = True
        self._between = True
        """The parser has read one request to its end, and nothing of the next."""
        self._ended = False
        """A request ended within the data that the parser was given last."""

    # What becomes of requests

    def head_complete(self) -> None:
        """Begin to serve a request, or refuse it: its head has been read."""
        raise NotImplementedError

    def complete_refused(self) -> None:
        """Go on after the end of a request that is not served, or has its answer already."""

    def drop_bytes(self, size: int) -> None:
        """Count bytes of a body that nobody reads."""

    def refuse_rest(self, refusal: ApiError) -> None:
        """Read no more: what came is no request, or is too large."""
        raise NotImplementedError

    def answered(self, request: Sender) -> None:
        """Go on after a request that has ended."""
        raise NotImplementedError

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's, so there is no isinstance here.
        self.transport = cast("asyncio.Transport", transport)
        self.was_opened = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """End the request, because nobody waits for it."""
        self.write_paused = False
        self._parser = None  # it holds this connection, too
        self._unread.forget()
        request, self.request = self.request, None
        if request is not None:
            try:
                request.client_gone()
            except Exception:  # noqa: BLE001 -- logged there
                request.on_bug()

    def eof_received(self) -> None:
        """Close when the other side sends no more, as asyncio does by default."""

    def pause_writing(self) -> None:
        """Pause the answer, because the other side's buffer is full."""
        self.write_paused = True
        if self.request is not None:
            self.request.pause()

    def resume_writing(self) -> None:
        """Resume the answer, because the other side has read its buffer."""
        self.write_paused = False
        self._unread.look(self.transport, paused=False)
        if self.request is not None:
            self.request.resume()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count the head's bytes: the parser itself has no limit."""
        self._ended = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._ignore_upgrade(data, upgrade):
                return
        except httptools.HttpParserError:
            self.refuse_rest(self._refusal or NO_HTTP)
            return
        if self._in_head:
            # If another request ended in this data, it is unknown how much of it is the head. One
            # read is bounded, and a complete head is measured (see `head_checks`).
            if not self._ended:
                self._head_bytes += len(data)
                if self._head_bytes > self._max_head_bytes:
                    self.refuse_rest(head_too_large(self._max_head_bytes))
            return
        self._bodiless_bytes += len(data)
        if self._bodiless_bytes > self._max_head_bytes + len(data) and not self._between:
            self.refuse_rest(head_too_large(self._max_head_bytes))

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request are dropped; they do not make that request malformed.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _ignore_upgrade(self, data: bytes, upgrade: Any) -> bool:
        """Serve a request that asks to upgrade (to HTTP/2, to WebSocket) as if it had not asked.

        The parser takes the head of such a request for the end of HTTP: it calls the request
        complete and stops, even if a body follows. Java's client asks with every request by
        default. If the body were dropped, the request would fail; if the parser read on, it would
        take the body, which may contain anything, for another request. So a second parser, told
        only its length, reads the body.

        Returns:
            Whether the connection goes on.
        """
        while not self.transport.is_closing():
            data = data[upgrade.args[0] :]
            framing, self._framing = self._framing, b""
            self._parser = self._new_parser()
            try:
                if framing:
                    self._repeats_head = True
                    self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as another:
                upgrade = another
            except httptools.HttpParserError:
                self.refuse_rest(self._refusal or NO_HTTP)
                return False
            else:
                return True
        return False

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._repeats_head:
            return
        if self.request is not None or self.transport.is_closing():
            raise ValueError("a request before the last one was answered")
        self._url = b""
        self._headers = []
        self._in_head = True
        self._between = False
        self._head_bytes = self._bodiless_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is only counted, because trailers mean nothing here."""
        if self._repeats_head:
            return
        if self._in_head:
            self._headers.append((name.lower(), value))
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_head_bytes:
            self._refusal = head_too_large(self._max_head_bytes)
            raise ValueError(self._refusal.message)

    def on_headers_complete(self) -> None:
        """Begin to serve the request."""
        if self._repeats_head:
            self._repeats_head = False
            return
        self._in_head = False
        self.head_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body of the request that the parser is at."""
        self._bodiless_bytes = 0
        if self.request is not None:
            self.request.received(body)
        else:
            self.drop_bytes(len(body))

    def on_message_complete(self) -> None:
        """End a request that has been read completely."""
        if self._framing:
            return  # the parser stops before the body of an upgrade request: see `_ignore_upgrade`
        self._between = self._ended = True
        if self.request is None:
            self.complete_refused()
        else:
            self._complete(self.request)

    # Requests

    @property
    def is_reading(self) -> bool:
        """Whether the body of its request is still to come."""
        return self.request is not None and not self._between

    def _complete(self, request: Sender) -> None:
        try:
            request.received_all()
        except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
            request.on_bug()

    def request_over(self, request: object) -> None:
        """Go on after a request that has sent its answer, or whose client has left."""
        ended = self.request
        if ended is None or ended is not request:
            return
        self.request = None
        whole = ended.answer.whole_bytes
        if self.write_paused or whole > SMALL_ANSWER_BYTES:
            if not self._unread.held_bytes:
                self._unread.caller = ended.record.caller
            self._unread.look(self.transport, paused=self.write_paused, whole=whole)
        self.answered(ended)
