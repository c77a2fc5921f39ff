"""Reads requests on client connections, and answers them one at a time, in their order.

The parser (`httptools`) calls a connection back for each part of a request. Requests that engines
answer (`routes.DATA_ROUTES`) become an `IncomingRequest`, which goes to the engine's connection and
back without a task; all others become a `LocalRequest`, which has its answer at once.

Refused before either, in OpenAI's error shape: connections beyond the limits, heads that are too
large or never end, a missing or double Host, and anything that is not HTTP/1.0 or 1.1. What was
complete before has its answer first.
"""

import collections
import math
import time
from typing import Any, Final

import httptools

from partitiond.proxy.edge.answer import Answer
from partitiond.proxy.edge.attempt import SMALL_ANSWER_BYTES
from partitiond.proxy.edge.client_connection import IDLE_SECONDS, ClientConnection
from partitiond.proxy.edge.head_checks import (
    RequestTarget,
    body_framing,
    check_head,
    head_too_large,
    read_target,
)
from partitiond.proxy.edge.heads import RequestHead, new_request_id
from partitiond.proxy.edge.incoming import IncomingRequest
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.local_requests import LocalRequest
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.request import errors
from partitiond.proxy.request.dialects import CHAT
from partitiond.proxy.request.errors import TOO_MANY_CONNECTIONS, ApiError
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.request.routes import BY_PATH, BY_TARGET

MAX_PIPELINED: Final = 64
"""Maximum number of requests on one connection that wait for the answers of earlier ones."""
_TOO_MANY_PIPELINED: Final = ApiError(
    400,
    f"More than {MAX_PIPELINED} requests wait on this connection for earlier answers.",
    code="too_many_pipelined",
)
_NO_HTTP: Final = ApiError(400, "The request is not valid HTTP.", code="invalid_http")
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"te"})
_ORIGIN_FORM: Final = RequestTarget("/", None)


class DataProtocol(ClientConnection):
    """One client connection and its requests."""

    def __init__(self, state: ProxyState) -> None:
        super().__init__(state)
        self._parser: Any = self._new_parser()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._head_bytes = 0
        self._in_head = True
        self._bodiless_bytes = 0
        """Received since the head, or since the last byte of a body: trailers, lines of chunks."""
        self._refusal: ApiError | None = None
        self._final_error: ApiError | None = None
        """The answer after all others, to bytes that were no request; nothing follows them."""
        self._framing = b""
        """Body length header of a request that asked to upgrade, until the body is read."""
        self._repeats_head = False
        """The parser is given such a header, as of a request whose head is known already."""
        self._ended = False
        """A request ended within the data that the parser was given last."""
        self._between = True
        """The parser has read one request to its end, and nothing of the next."""
        self._first_bytes = b""
        """The first bytes of a request, if no other request was under way when they came."""
        self._reading: IncomingRequest | None = None
        """The request whose body the parser is reading."""
        self._active: IncomingRequest | None = None
        """The request that is being answered."""
        self._queued: collections.deque[IncomingRequest | LocalRequest] = collections.deque()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all requests of the connection."""
        waiting = [self._active, *self._queued, self._reading]
        self._queued.clear()
        super().connection_lost(exc)
        self._parser = None  # it holds this connection, too
        for one in waiting:
            if isinstance(one, IncomingRequest):
                try:
                    one.client_gone()
                except Exception:  # noqa: BLE001 -- logged there; end all others
                    one.on_bug()

    def pause_writing(self) -> None:
        """Pause the answer, because the client's buffer is full."""
        self.write_paused = True
        if self._active is not None:
            self._active.pause()

    def resume_writing(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        self.write_paused = False
        self._unread.look(self.transport, paused=False)
        if self._active is not None:
            self._active.resume()
        if not self.transport.is_closing():
            self._read_on()

    def shut_down(self) -> None:
        """End the connection once the request under way has been answered."""
        if self._active is not None:
            self._active.answer.keep_alive = False
        elif not self._lingering:
            self.transport.close()

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count the head's bytes: the parser itself has no limit."""
        if self._unread.held_bytes:  # who asks again has most likely read
            self._unread.look(self.transport, paused=self.write_paused)
        if self._lingering:
            self._drop(len(data))
            return
        if self._final_error is not None:
            return
        if self._between and self._active is None and not self._is_surplus:
            found = self.state.known_heads.find(data)
            if found is not None and len(found[1]) <= self._options.max_body_bytes:
                self._take_known(found[0], found[1])
                return
            self._first_bytes = data
        else:
            self._first_bytes = b""
        self._ended = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._go_on(data, upgrade):
                return
        except httptools.HttpParserError:
            self._refuse_rest(self._refusal or _NO_HTTP)
            return
        if self._in_head:
            # If another request ended in this data, it is unknown how much of it is the head. One
            # read is bounded, and a complete head is measured (see `head_checks`).
            if not self._ended:
                self._count_head(len(data))
            return
        self._bodiless_bytes += len(data)
        if self._bodiless_bytes > self._options.max_header_bytes + len(data) and not self._between:
            self._refuse_rest(head_too_large(self._options.max_header_bytes))
        elif self._reading is not None and self._reading is self._active:
            self._await_body(self._reading)

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request are dropped; they do not make that request malformed.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _go_on(self, data: bytes, upgrade: Any) -> bool:
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
                self._refuse_rest(self._refusal or _NO_HTTP)
                return False
            else:
                return True
        return False

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._options.max_header_bytes and not self.transport.is_closing():
            self._refuse_rest(head_too_large(self._options.max_header_bytes))

    def _give_up_waiting(self) -> None:
        """Refuse a request whose head did not end in time; close the connection if none began."""
        untold = self._active is not None or self.transport.get_write_buffer_size() > 0
        if self._between or not self._in_head or untold or self.transport.is_closing():
            super()._give_up_waiting()
        else:
            self._refuse_rest(TOO_MANY_CONNECTIONS if self._is_surplus else errors.HEAD_TOO_SLOW)

    def _refuse_rest(self, refusal: ApiError) -> None:
        """Refuse what the client is sending, once all complete requests have their answers."""
        if self._lingering or self.transport.is_closing():
            return  # the last answer has been given
        broken, self._reading = self._reading, None
        if broken is not None and broken is self._active:
            broken.body_is_broken(refusal)
            return
        if broken is not None:
            self._queued.pop()
            broken.client_gone()
        self._final_error = refusal
        if self._active is None:
            self._send_final_error(refusal)
        else:
            self.pause_reading()

    def _send_final_error(self, refusal: ApiError) -> None:
        answer = Answer(self, CHAT, new_request_id(), keep_alive=False, chunked=False)
        if self.state.cors is not None:
            answer.extra = self.state.cors.lines(RequestHead(self._headers).origin)
        answer.error(refusal)
        self._end_unread()

    def _read_on(self) -> None:
        """Read further requests, unless enough of them wait or none may follow."""
        if not self._queued and self._final_error is None:
            self.resume_reading()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._repeats_head:
            return
        if self._lingering or self.transport.is_closing():
            raise ValueError("no request after the last one")
        self._url = b""
        self._headers = []
        self._expects_continue = False
        self._in_head = True
        self._between = False
        self._head_bytes = self._bodiless_bytes = self._dropped_bytes = 0
        self._reading = None
        if self._active is None and self._deadline > time.monotonic() + self._head_seconds():
            self._await_head()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is only counted, because trailers mean nothing here."""
        if self._repeats_head:
            return
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self._expects_continue = True
            self._headers.append((name, value))
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._options.max_header_bytes:
            self._refusal = head_too_large(self._options.max_header_bytes)
            raise ValueError(self._refusal.message)

    def on_headers_complete(self) -> None:
        """Do the checks that the parser omits, then answer the request or queue it."""
        if self._repeats_head:
            self._repeats_head = False
            return
        self._in_head = False
        self._deadline = math.inf
        # The first request in the received data takes these bytes, even if it fails: they begin
        # with the head of this request, and with no other.
        first_bytes, self._first_bytes = self._first_bytes, b""
        method: bytes = self._parser.get_method()
        version: str = self._parser.get_http_version()
        route = BY_TARGET.get(self._url)
        is_plain = route is not None or method == b"CONNECT"
        target = _ORIGIN_FORM if is_plain else read_target(self._url)
        self._refusal = self._check_head(target, version)
        if self._refusal is not None:
            raise ValueError(self._refusal.message)  # the parser ends with it
        if method == b"CONNECT":
            raise ValueError("no tunnels")
        if route is None:
            route = BY_PATH.get(target.path)
        keep_alive = version != "1.0" and bool(self._parser.should_keep_alive())
        if route is not None and method == b"POST":
            self._take(route, first_bytes, keep_alive=keep_alive, chunked=version != "1.0")
        else:
            path = target.path if route is None else route.path
            self._take_local(method.decode("ascii"), path, keep_alive=keep_alive)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body of the request that the parser is at."""
        self._bodiless_bytes = 0
        if self._reading is not None:
            self._reading.received(body)
        else:
            self._drop(len(body))

    def on_message_complete(self) -> None:
        """End a request that has been read completely."""
        if self._framing:
            return  # the parser stops before the body of an upgrade request: see `_go_on`
        self._between = self._ended = True
        request, self._reading = self._reading, None
        if request is None:
            return
        self.state.reading.discard(request)
        if self._active is request:
            self._complete(request)

    # Requests

    def _take(
        self, route: DataRoute, first_bytes: bytes, *, keep_alive: bool, chunked: bool
    ) -> None:
        """Answer a request by an engine, or queue it."""
        request = IncomingRequest(
            self, route, RequestHead(self._headers), keep_alive=keep_alive, chunked=chunked,
            awaits_continue=self._expects_continue,
        )  # fmt: skip
        if self._active is not None:
            self._queue(request)
            self._reading = request
            return
        self._reading = self._active = request
        self._begin(request)
        if request.is_reading:
            self._remember(request, first_bytes)

    def _take_known(self, known: KnownHead, body: bytes) -> None:
        """Answer a request with a known head, without the parser."""
        self._deadline = math.inf
        request = IncomingRequest(
            self, known.route, known.head, keep_alive=known.keep_alive, chunked=True, known=known
        )
        self._active = request
        request.begin()
        request.received(body)
        self._complete(request)

    def _take_local(self, method: str, path: str, *, keep_alive: bool) -> None:
        """Answer a request that no engine answers, or queue it."""
        has_body = body_framing(self._headers) not in {b"", b"content-length: 0\r\n"}
        local = LocalRequest(
            self, method, path, self._headers, keep_alive=keep_alive, has_body=has_body
        )
        if self._active is not None:
            self._queue(local)
        else:
            self._answer_local(local)

    def _queue(self, waiting: IncomingRequest | LocalRequest) -> None:
        self.pause_reading()
        if len(self._queued) == MAX_PIPELINED:
            self._refusal = _TOO_MANY_PIPELINED
            raise ValueError(_TOO_MANY_PIPELINED.message)
        self._queued.append(waiting)

    def _remember(self, request: IncomingRequest, data: bytes) -> None:
        """Keep the head of a request that is plain in every respect."""
        plain = not self._expects_continue and request.answer.chunked
        if data and plain and self._head_is_plain():
            known = KnownHead(request.route, request.head, keep_alive=request.answer.keep_alive)
            self.state.known_heads.keep(data, known)

    def _head_is_plain(self) -> bool:
        """Whether there is exactly one `content-length` and no unusual header."""
        lengths = 0
        for name, _ in self._headers:
            if name in _UNUSUAL:
                return False
            lengths += name == b"content-length"
        return lengths == 1

    def _begin(self, request: IncomingRequest) -> None:
        request.begin()
        if request.awaits_continue and not self._lingering:
            request.awaits_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin_late(self, request: IncomingRequest) -> None:
        """Begin a request whose turn has come; it may have been read to its end by now."""
        self._begin(request)
        if self._active is not request:
            return
        if request is self._reading:
            self._await_body(request)
        else:
            self._complete(request)

    def _await_body(self, request: IncomingRequest) -> None:
        """Start the time limit of the body, whose rest is read from now on."""
        if request not in self.state.reading:
            self.state.reading.add(request)
            request.await_body(time.monotonic())

    def _complete(self, request: IncomingRequest) -> None:
        try:
            request.received_all()
        except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
            request.on_bug()

    def _answer_local(self, local: LocalRequest) -> None:
        local.answer()
        if local.http.keep_alive and not self.transport.is_closing():
            self._next()
        else:
            self._finish(unread=local.has_body)

    def is_answering(self, request: object) -> bool:
        """Whether it is this request's turn to send."""
        return self._active is request

    def _check_head(self, target: RequestTarget, version: str) -> ApiError | None:
        if self._is_surplus:
            return TOO_MANY_CONNECTIONS
        refusal = check_head(self._url, self._headers, version, self._options.max_header_bytes)
        if refusal is not None:
            return refusal
        if self._parser.should_upgrade():
            self._framing = body_framing(self._headers)
        if self._guards_host and not self.state.keys.required:
            return self.state.hosts.refusal_of(target.host, self._headers)
        return None

    # Answers

    def request_over(self, request: object) -> None:
        """Go on after an request that has sent its answer, or whose client has left."""
        active = self._active
        if active is None or active is not request:
            return
        whole = active.answer.whole_bytes
        if self.write_paused or whole > SMALL_ANSWER_BYTES:
            self._unread.look(self.transport, paused=self.write_paused, whole=whole)
        if active.answer.keep_alive and not self.transport.is_closing():
            self._next()
        else:
            self._finish()

    def _next(self) -> None:
        """Answer the next request in line, or wait for one."""
        self._active = None
        if self._queued:
            if self.end_if_left():
                return  # nobody waits for the next answer
            following = self._queued.popleft()
            self._read_on()  # the rest of its body may still be to come
            if isinstance(following, IncomingRequest):
                self._active = following
                self._begin_late(following)
            else:
                self._answer_local(following)
        elif self._final_error is not None:
            self._send_final_error(self._final_error)
        elif self._reading is None:
            is_idle = self._between or not self._in_head
            seconds = IDLE_SECONDS if is_idle else self._options.client_timeout_seconds
            self._deadline = time.monotonic() + seconds
            if self.write_paused:
                self.pause_reading()  # read no further request while answers are not read
            else:
                self.resume_reading()

    def _finish(self, *, unread: bool = False) -> None:
        """End the connection after this answer.

        Args:
            unread: the client may be sending the body of the request.
        """
        self._active = None
        for one in self._queued:
            if isinstance(one, IncomingRequest):
                one.client_gone()  # its turn never comes
        self._queued.clear()
        if unread:
            self._end_unread()
        elif not self._lingering:
            self.transport.close()
            self._deadline = time.monotonic() + self._options.client_timeout_seconds
        elif self.transport.can_write_eof():
            self.transport.write_eof()  # no more answers; incoming bytes are dropped
