"""Takes the requests of one client's connection, answers them, and ends it.

Requests that engines answer (`routes.DATA_ROUTES`) become an `IncomingRequest`, which goes to the
engine's connection and back without a task; all others become a `LocalRequest`, which has its
answer at once.

Refused before either, in OpenAI's error shape: connections beyond the limits, heads that are too
large or never end, a missing or double Host, and anything that is not HTTP/1.0 or 1.1. What comes
before the answer to the request before it is not taken: the connection ends with that answer.
"""

import asyncio
import logging
import math
import select
import time
from typing import Final

from partitiond.core.keys.shared_room import network_of
from partitiond.proxy.edge.answer import Answer
from partitiond.proxy.edge.exchange import Sender
from partitiond.proxy.edge.head_checks import (
    RequestTarget,
    body_framing,
    check_head,
    read_target,
)
from partitiond.proxy.edge.heads import RequestHead, new_request_id
from partitiond.proxy.edge.hosts import is_loopback
from partitiond.proxy.edge.incoming import IncomingRequest
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.local_requests import LocalRequest
from partitiond.proxy.edge.origins import plain_address
from partitiond.proxy.edge.request_connection import RequestConnection
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.edge.unread import unsent_bytes
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import TOO_MANY_CONNECTIONS, ApiError
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.request.routes import BY_PATH, BY_TARGET, dialect_of

SURPLUS_SECONDS: Final = 1.0
"""Time for the head on a connection beyond the limit, which is refused once its head arrives.
Closing it sooner would reset what the client is sending, and hide the reason from the client."""
LINGER_SECONDS: Final = 2.0
"""How long incoming bytes are dropped after the last answer of a connection."""
LINGER_BODIES: Final = 4
"""They are dropped up to this many times the allowed size of a body, and then not read. Chosen."""
GOODBYE_SECONDS: Final = 0.25
"""How long a client that has received everything may take to end TLS from its side, too."""
IDLE_SECONDS: Final = 75.0
"""How long a connection without a request is kept."""
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"te"})
_ORIGIN_FORM: Final = RequestTarget("/", None)

_logger = logging.getLogger("partitiond.proxy")


class DataProtocol(RequestConnection):
    """One client connection and its requests.

    Attributes:
        read_paused: the connection is not read at the moment.
        network: whose it is (see `shared_room.network_of`).
    """

    def __init__(self, state: ProxyState) -> None:
        super().__init__(state, state.options.max_header_bytes)
        self.read_paused = False
        self.network = ""
        self._options = state.options
        self._is_tls = False
        self._guards_host = False
        """Host names that are not ours may resolve to us (see `hosts`); TLS rules this out."""
        self._is_surplus = False
        self._lingering = False
        self._dropped_bytes = 0
        self._deadline = math.inf
        self._closed_at = math.inf
        self._incoming: IncomingRequest | None = None
        """The request whose body is read."""
        self._first_bytes = b""
        """The first bytes of a request, if no other request was under way when they came."""
        self._takes_no_more = False
        """Bytes came before the answer to the request before them."""

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first head."""
        super().connection_made(transport)
        state = self.state
        self.address = plain_address(_host(transport.get_extra_info("peername")))
        self.network = network_of(self.address)
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        own = _host(transport.get_extra_info("sockname"))
        self._guards_host = not self._is_tls and is_loopback(own)
        self._is_surplus = not state.connection_opened(self)
        state.start_sweeping()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and end its request."""
        self.state.connection_closed(self)
        super().connection_lost(exc)

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def resume_writing(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        super().resume_writing()
        if not (self._takes_no_more or self.transport.is_closing()):
            self.resume_reading()

    # Calls of the state and its sweeper

    def shut_down(self) -> None:
        """End the connection once the request under way has been answered."""
        if self.request is not None:
            self.request.answer.keep_alive = False
        elif not self._lingering:
            self.transport.close()

    def give_way(self) -> bool:
        """End the connection unless a request of it is served; return whether it was ended."""
        is_served = self.request is not None and self.request.exchange is not None
        is_read = not self.transport.get_write_buffer_size()
        if self._is_surplus or is_served or not is_read or self.transport.is_closing():
            return False
        self.transport.abort()
        return True

    def sweep(self, now: float) -> None:
        """Check whether a time limit of the connection has passed."""
        if self._unread.held_bytes:
            self._unread.look(self.transport, paused=self.write_paused)
        if now > self._deadline:
            self._deadline = math.inf
            if self._lingering:
                self.transport.abort()
            else:
                self._give_up_waiting()
        elif self.transport.is_closing():
            if self._is_tls:
                self._sweep_goodbye(now)
        elif self.read_paused:
            self.end_if_left()

    def end_if_left(self) -> bool:
        """End the connection if the client has closed its side. Returns whether it was ended.

        While the connection is read, the event loop does this at once. While reading is paused,
        the event loop reports nothing, and unread bytes may precede the end: so ask the kernel.
        """
        poller = select.poll()
        poller.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        found = poller.poll(0)
        if not found:
            return False
        if found[0][1] & (select.POLLERR | select.POLLHUP):
            self.transport.abort()
        else:
            self.transport.close()
        return True

    def _sweep_goodbye(self, now: float) -> None:
        """Abort a closed connection that waits for the client to end TLS, as many never do."""
        if self._closed_at == math.inf:
            self._closed_at = now
        elif now - self._closed_at > GOODBYE_SECONDS and not unsent_bytes(self.transport):
            self.transport.abort()

    def on_bug(self) -> None:
        """Log a bug of ours and close the connection; call it inside `except`."""
        _logger.exception("a connection failed inside the proxy")
        self.transport.abort()

    def linger(self) -> None:
        """Take no further request: drop incoming bytes, then close."""
        self._lingering = True
        is_behind = self.transport.get_write_buffer_size() > 0  # with earlier answers
        seconds = self._options.client_timeout_seconds if is_behind else LINGER_SECONDS
        self._deadline = time.monotonic() + seconds

    def _end_unread(self) -> None:
        """End the connection after its last answer, while its client may be sending.

        What the client sends would reset a connection that was closed, and the answer with it.
        """
        if self._is_surplus or not self.transport.can_write_eof():  # TLS reads on by itself
            self.transport.close()
            return
        self.linger()
        self.resume_reading()
        self.transport.write_eof()

    def drop_bytes(self, size: int) -> None:
        """Count bytes that mean nothing any more."""
        self._dropped_bytes += size
        if self._dropped_bytes > LINGER_BODIES * self._options.max_body_bytes:
            self.pause_reading()

    def _head_seconds(self) -> float:
        seconds = self._options.client_timeout_seconds
        # A surplus connection stays just long enough to be answered.
        return min(seconds, SURPLUS_SECONDS) if self._is_surplus else seconds

    def _await_head(self) -> None:
        self._deadline = time.monotonic() + self._head_seconds()

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Read a request, unless it comes too early, or after the last one."""
        if self._unread.held_bytes:  # who asks again has most likely read
            self._unread.look(self.transport, paused=self.write_paused)
        if self._lingering:
            self.drop_bytes(len(data))
            return
        if self._between and not self._is_surplus:
            if self.request is not None:
                if data.strip(b"\r\n"):
                    self._take_no_more()
                return
            found = self.state.known_heads.find(data)
            if found is not None and len(found[1]) <= self._options.max_body_bytes:
                self._take_known(found[0], found[1])
                return
            self._first_bytes = data
        else:
            self._first_bytes = b""
        super().data_received(data)
        if self.is_reading and self._incoming is not None:
            self._await_body(self._incoming)

    def _take_no_more(self) -> None:
        """End the connection with the answer to the request under way."""
        self._takes_no_more = True
        self.pause_reading()
        if self.request is not None:
            self.request.answer.keep_alive = False

    def _give_up_waiting(self) -> None:
        """Refuse a request whose head did not end in time; close the connection if none began."""
        untold = self.request is not None or self.transport.get_write_buffer_size() > 0
        if not (self._between or not self._in_head or untold or self.transport.is_closing()):
            self.refuse_rest(TOO_MANY_CONNECTIONS if self._is_surplus else errors.HEAD_TOO_SLOW)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # what the client does not read would keep it open for ever
        else:
            self.transport.close()

    def refuse_rest(self, refusal: ApiError) -> None:
        """Refuse what the client is sending, unless it comes before an answer."""
        if self._lingering or self.transport.is_closing():
            return  # the last answer has been given
        if self.request is None:
            dialect = dialect_of(self._url.decode("latin-1"))
            answer = Answer(self, dialect, new_request_id(), keep_alive=False, chunked=False)
            if self.state.cors is not None:
                answer.extra = self.state.cors.lines(RequestHead(self._headers).origin)
            answer.error(refusal)
            self._end_unread()
        elif self._between or self._incoming is None:
            self._take_no_more()
        else:
            self._incoming.body_is_broken(refusal)

    # Requests

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._lingering:
            raise ValueError("no request after the last one")
        super().on_message_begin()
        if not self._repeats_head:
            self._dropped_bytes = 0
            if self._deadline > time.monotonic() + self._head_seconds():
                self._await_head()

    def head_complete(self) -> None:
        """Do the checks that the parser omits, then answer the request."""
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

    def on_message_complete(self) -> None:
        """End a request that has been read completely."""
        if not self._framing and self._incoming is not None:
            self.state.reading.discard(self._incoming)
            self._incoming = None
        super().on_message_complete()

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

    def _take(
        self, route: DataRoute, first_bytes: bytes, *, keep_alive: bool, chunked: bool
    ) -> None:
        """Answer a request by an engine."""
        expects = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers
        )
        request = IncomingRequest(
            self, route, RequestHead(self._headers), keep_alive=keep_alive, chunked=chunked,
            awaits_continue=expects,
        )  # fmt: skip
        self.request = self._incoming = request
        request.begin()
        if request.awaits_continue and not self._lingering:
            request.awaits_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif first_bytes and chunked and request.is_reading and self._head_is_plain():
            known = KnownHead(route, request.head, keep_alive=keep_alive)
            self.state.known_heads.keep(first_bytes, known)

    def _head_is_plain(self) -> bool:
        """Whether there is exactly one `content-length` and no unusual header."""
        lengths = 0
        for name, _ in self._headers:
            if name in _UNUSUAL:
                return False
            lengths += name == b"content-length"
        return lengths == 1

    def _take_known(self, known: KnownHead, body: bytes) -> None:
        """Answer a request with a known head, without the parser."""
        self._deadline = math.inf
        request = IncomingRequest(
            self, known.route, known.head, keep_alive=known.keep_alive, chunked=True, known=known
        )
        self.request = request
        request.begin()
        request.received(body)
        self._complete(request)

    def _take_local(self, method: str, path: str, *, keep_alive: bool) -> None:
        """Answer a request that no engine answers."""
        has_body = body_framing(self._headers) not in {b"", b"content-length: 0\r\n"}
        local = LocalRequest(
            self, method, path, self._headers, keep_alive=keep_alive, has_body=has_body
        )
        local.answer()
        if local.http.keep_alive and not self.transport.is_closing():
            self._await_next()
        else:
            self._finish(unread=has_body)

    def _await_body(self, request: IncomingRequest) -> None:
        """Start the time limit of the body, whose rest is read from now on."""
        if request not in self.state.reading:
            self.state.reading.add(request)
            request.await_body(time.monotonic())

    # Answers

    def answered(self, request: Sender) -> None:
        """Go on after a request that has sent its answer, or whose client has left."""
        self._incoming = None
        if request.answer.keep_alive and not self.transport.is_closing():
            self._await_next()
        else:
            self._finish(unread=self._takes_no_more)

    def _await_next(self) -> None:
        self._deadline = time.monotonic() + IDLE_SECONDS
        if self.write_paused:
            self.pause_reading()  # read no further request while answers are not read
        else:
            self.resume_reading()

    def _finish(self, *, unread: bool) -> None:
        """End the connection after this answer.

        Args:
            unread: the client may be sending more.
        """
        if unread:
            self._end_unread()
        elif not self._lingering:
            self.transport.close()
            self._deadline = time.monotonic() + self._options.client_timeout_seconds
        elif self.transport.can_write_eof():
            self.transport.write_eof()  # no more answers; incoming bytes are dropped


def _host(name: object) -> str:
    """Return the address in a socket's name; empty if it is a Unix socket's."""
    return str(name[0]) if isinstance(name, tuple) else ""
