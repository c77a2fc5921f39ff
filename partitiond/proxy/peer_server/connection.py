"""Takes the requests of one other host's proxy on one connection, one at a time."""

import asyncio
import time
from typing import Any, Final, Protocol, cast

import httptools

from partitiond.core.units import KIB
from partitiond.proxy.edge.answer import ClientSide
from partitiond.proxy.edge.attempt import SMALL_ANSWER_BYTES
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.edge.unread import UnreadAnswers
from partitiond.proxy.engine.framing import HOP
from partitiond.proxy.peer_server.request import PeerRequest
from partitiond.proxy.peers.host import LOAD_PATH
from partitiond.proxy.peers.messages import PROTOCOL, Failed, encode, read_open
from partitiond.proxy.peers.pool import IDLE_SECONDS, end_when_silent
from partitiond.proxy.request import errors
from partitiond.proxy.request.routes import BY_TARGET

MAX_HEAD_BYTES: Final = 64 * KIB
"""Larger heads end the connection. What an entry tells of a request is some hundred bytes."""
DEFAULTS_BYTES: Final = 4096
"""What an entry may add to a body beyond its model's defaults. Chosen."""
LEAST_BODY_RATE: Final = 256 * KIB
"""Bytes per second at which a body that its entry has as a whole must come. Chosen, far below what
any network between hosts carries."""


class OwnerConnection(ClientSide):
    """The owner's end of a connection.

    It implements `asyncio.Protocol` without inheriting it, as `UpstreamConnection` does, and is the
    protocol of its parser.

    Attributes:
        peer: name of the entry's host; empty until it is let in.
        authorities: that the entry's certificate was checked by; empty without TLS.
        let_in: what was known of the fleet when the entry was let in.
        listens: its entry is told the load of this host.
        request: that is read or served, or None.
    """

    def __init__(
        self, state: ProxyState, server: "PeerConnections", authorities: frozenset[bytes]
    ) -> None:
        self.authorities = authorities
        self.peer = ""
        self.let_in: object = None
        self.write_paused = False
        self.was_opened = False
        self.listens = False
        self.request: PeerRequest | None = None
        self.state = state
        self._server = server
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._is_between = True
        self._is_last = False
        self._idle_since = time.monotonic()
        self._unread = UnreadAnswers(state)

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for requests; from now on, the end of the connection is told."""
        self.transport = cast("asyncio.Transport", transport)
        self.was_opened = True
        end_when_silent(transport.get_extra_info("socket"))
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls back."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            why = error.__context__ if isinstance(error.__context__, ValueError) else error
            self._server.log_refusal(self.peer, f"sent what is no request: {why}")
            self.transport.abort()

    def eof_received(self) -> None:
        """Close when the entry sends no more, as asyncio does by default."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """End the request, because nobody waits for it."""
        self._parser = None  # it holds this connection, too
        self._server.lost(self)
        self._unread.forget()
        request, self.request = self.request, None
        if request is not None:
            try:
                request.client_gone()
            except Exception:  # noqa: BLE001 -- logged there
                request.on_bug()

    def pause_writing(self) -> None:
        """Stop the engine's answer, because the entry does not read."""
        self.write_paused = True
        if self.request is not None and self.request.exchange is not None:
            self.request.exchange.pause()

    def resume_writing(self) -> None:
        """Let the engine's answer go on."""
        self.write_paused = False
        self._unread.look(self.transport, paused=False)
        if self.request is not None and self.request.exchange is not None:
            self.request.exchange.resume()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.request is not None or self.listens or self.transport.is_closing():
            raise ValueError("a request before the last one was answered")
        self._unread.forget()  # an entry asks again once it has all of the answer before
        self._is_between = False
        self._target = b""
        self._headers = {}
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.lower()] = value
        self._count(len(name) + len(value))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("a head without an end")

    def on_headers_complete(self) -> None:
        """Begin to serve the request, or refuse it."""
        host = self._headers.get(b"x-partitiond-host", b"").decode("latin-1")
        why = self._stranger(host)
        if why:
            self._is_last = True
            self._server.log_refusal(host, why)
            self._refuse(403, f"it {why}")
        elif self._server.is_leaving:
            self._is_last = True
            self._refuse(503, "The owner shuts down.")
        elif self._target == LOAD_PATH.encode():
            self.listens = True
            self._server.listens(self)
        else:
            self._begin()

    def _stranger(self, host: str) -> str:
        """Return why the entry is refused, or empty."""
        protocol = self._headers.get(b"x-partitiond-protocol", b"").decode("latin-1")
        if protocol != str(PROTOCOL):
            return f"speaks version {protocol[:8] or 'none'} of the protocol, not {PROTOCOL}"
        return self._server.refusal(self, host)

    def _begin(self) -> None:
        asked = read_open(self._headers.get(HOP, b""))
        size = int(self._headers.get(b"content-length", b""))
        route = BY_TARGET.get(self._target)
        model = self.state.models.get(asked.model)
        added = DEFAULTS_BYTES + (0 if model is None else len(model.route.defaults_json))
        if route is None:
            self._refuse(503, "The owner knows no such route.")
        elif size > self.state.options.max_body_bytes + added:
            self._is_last = True
            self._refuse(503, "The owner takes no body of that size.")
        else:
            self.request = PeerRequest(self, self.peer, route, asked, size)

    def _refuse(self, status: int, message: str) -> None:
        told = encode(Failed(status, "upstream_connect", message, 1, refused=True))
        self.transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\n%b: %b\r\ncontent-length: 0\r\n\r\n" % (HOP, told)
        )

    def on_body(self, body: bytes) -> None:
        """Take a piece of the request's body; that of a refused one is dropped."""
        if self.request is not None:
            self.request.received(body)

    def on_message_complete(self) -> None:
        """Serve the request: all of it has come."""
        self._is_between = True
        if self.request is not None:
            self.request.received_all()
        elif not self.listens:
            self._rest()

    # Calls of its request, and of the server

    def request_over(self, request: object) -> None:  # noqa: ARG002 -- there is one at a time
        """Go on after a request that has ended; if its answer is not whole, the connection ends."""
        ended, self.request = self.request, None
        if ended is None:
            return
        if ended.answer.ended:
            whole = ended.answer.whole_bytes
            if self.write_paused or whole > SMALL_ANSWER_BYTES:
                self._unread.look(self.transport, paused=self.write_paused, whole=whole)
            self._rest()
        else:
            self.transport.abort()

    def _rest(self) -> None:
        self._idle_since = time.monotonic()
        if self._is_last:
            self.transport.close()

    def tell(self, line: bytes) -> None:
        """Send the load of this host, if the entry reads."""
        if not self.write_paused:
            self.transport.write(b"%x\r\n%b\r\n" % (len(line), line))

    def leave(self) -> None:
        """Take no further request; end once the one that runs has ended."""
        self._is_last = True
        if self.listens:
            self.transport.write(b"0\r\n\r\n")
            self.transport.close()
        elif self.request is None:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Leave an entry that does not send its body, or asks nothing for long."""
        request, longest = self.request, self.state.options.client_timeout_seconds
        if self._unread.held_bytes:
            self._unread.look(self.transport, paused=self.write_paused)
        if self.transport.is_closing():
            if now - self._idle_since > longest:
                self.transport.abort()
        elif request is None:
            limit = 2 * IDLE_SECONDS if self._is_between and not self.listens else longest
            if not self.listens and now - self._idle_since > limit:
                self.transport.close()
        elif not request.is_complete and (
            now - request.began_at > longest + request.body_bytes / LEAST_BODY_RATE
        ):
            self._is_last = True
            request.refuse(errors.BODY_TOO_SLOW)


class PeerConnections(Protocol):
    """All connections of peers; `PeerServer` is the only kind.

    Attributes:
        is_leaving: no further request is taken.
    """

    is_leaving: bool

    def refusal(self, connection: OwnerConnection, host: str) -> str:
        """Return why a peer is refused, or empty."""
        ...

    def log_refusal(self, host: str, why: str) -> None:
        """Log why a peer is refused."""
        ...

    def opened(self, connection: OwnerConnection) -> None:
        """Note a connection that is open."""
        ...

    def listens(self, connection: OwnerConnection) -> None:
        """Tell the load of this host on a connection from now on."""
        ...

    def lost(self, connection: OwnerConnection) -> None:
        """Forget a connection that has ended."""
        ...
