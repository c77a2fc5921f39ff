"""Reads requests on client connections: uvicorn's protocol, with a lane of its own below ASGI.

Requests that engines answer (`routes.DATA_ROUTES`) never become ASGI calls: an `Exchange` takes
them from the parser's callbacks to the engine's connection and back, without a task and without a
cycle of receive and send. All other requests go to the application, as in uvicorn. On one
connection, requests of both kinds are answered one at a time, in their order.

Refused before either path, in OpenAI's error shape: connections beyond the limits, heads that are
too large or never end, a missing or double Host, and anything that is not HTTP/1.0 or 1.1.
"""

import asyncio
import collections
import math
import time
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from partitiond.proxy.edge.client_connection import IDLE_SECONDS, ClientConnection
from partitiond.proxy.edge.cors import origin_of
from partitiond.proxy.edge.exchange import Exchange, Phase
from partitiond.proxy.edge.head_checks import Target, check_head, head_too_large, read_target
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.incoming import Incoming
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.edge.upgrades import body_framing, parser_after_upgrade
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import TOO_MANY_CONNECTIONS, ApiError
from partitiond.proxy.request.request_id import new_request_id
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.request.routes import BY_PATH, BY_TARGET

MAX_PIPELINED: Final = 64
"""Maximum number of requests on one connection that wait for the answers of earlier ones."""

Waiting = Exchange | RequestResponseCycle


class DataProtocol(ClientConnection):
    """One client connection and its requests.

    Attributes:
        awaits_continue: the client sends its body only after `100 Continue`.
    """

    def __init__(
        self,
        state: ProxyState,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(state, config, server_state, app_state, _loop)
        self.awaits_continue = False
        self._head_bytes = 0
        self._in_head = True
        self._bodiless_bytes = 0
        """Received since the head, or since the last byte of a body: trailers, lines of chunks."""
        self._refusal: ApiError | None = None
        self._last_words: ApiError | None = None
        """The answer after all others, to bytes that were no request; nothing follows them."""
        self._framing = b""
        """Body length header of a request that asked to upgrade, until the body is read."""
        self._ended = False
        """A request ended within the data that the parser was given last."""
        self._between = True
        """The parser has read one request to its end, and nothing of the next."""
        self._first_bytes = b""
        """The first bytes of a request, if no other request was under way when they came."""
        self._exchange: Exchange | None = None
        """The request whose body the parser is reading, if it takes the lane."""
        self._active: Waiting | None = None
        """The request that is being answered."""
        self._line: collections.deque[tuple[Waiting, Callable[[], object]]] = collections.deque()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all requests of the connection."""
        waiting = [self._active, *(one for one, _ in self._line), self._exchange]
        self._line.clear()
        super().connection_lost(exc)
        for one in waiting:
            if isinstance(one, Exchange):
                try:
                    one.client_gone()
                except Exception:  # noqa: BLE001 -- logged there; end all others
                    one.crashed()
            elif one is not None:
                one.disconnected = True
                one.message_event.set()

    def pause_writing(self) -> None:
        """Pause the answer, because the client's buffer is full."""
        super().pause_writing()
        if isinstance(self._active, Exchange):
            self._active.pause()

    def resume_writing(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        super().resume_writing()
        if isinstance(self._active, Exchange):
            self._active.resume()
        if not self.transport.is_closing():
            self._read_on()

    def shutdown(self) -> None:
        """End the connection once the request under way has been answered."""
        if self._active is None and self._exchange is None:
            self.transport.close()
        elif isinstance(self._active, Exchange):
            self._active.http.keep_alive = False
        elif self._active is not None:
            self._active.keep_alive = False

    # Bytes

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count the head's bytes: the parser itself has no limit."""
        if self._lingering:
            self._drop(len(data))
            return
        if self._last_words is not None:
            return
        if self._between and self._active is None and not self._is_surplus:
            found = self.state.known_heads.find(data)
            if found is not None and len(found[1]) <= self._options.max_body_bytes:
                self._take_known(*found)
                return
            self._first_bytes = data
        else:
            self._first_bytes = b""
        self._ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._go_on(data, upgrade):
                return
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        if self._in_head:
            # If another request ended in this data, it is unknown how much of it is the head. One
            # read is bounded, and a complete head is measured (see `head_checks`).
            if not self._ended:
                self._count_head(len(data))
            return
        self._bodiless_bytes += len(data)
        if self._bodiless_bytes > self._options.max_header_bytes + len(data) and not self._between:
            self._refuse_head()
        elif self._exchange is not None and self._exchange is self._active:
            self._await_body(self._exchange)

    def _go_on(self, data: bytes, upgrade: httptools.HttpParserUpgrade) -> bool:
        """Continue after a head that asked to upgrade; return whether the connection goes on."""
        while not self.transport.is_closing():
            data = data[upgrade.args[0] :]
            self.parser = parser_after_upgrade(self, self._framing)
            self._framing = b""
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as another:
                upgrade = another
            except httptools.HttpParserError:
                self.send_400_response("")
                return False
            else:
                return True
        return False

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._options.max_header_bytes and not self.transport.is_closing():
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._refusal = head_too_large(self._options.max_header_bytes)
        self.send_400_response("")

    def _give_up_waiting(self) -> None:
        """Refuse a request whose head did not end in time; close the connection if none began."""
        untold = self._active is not None or self.transport.get_write_buffer_size() > 0
        if self._between or untold or self.transport.is_closing():
            super()._give_up_waiting()
        else:
            self._refusal = TOO_MANY_CONNECTIONS if self._is_surplus else errors.HEAD_TOO_SLOW
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's text is ours here
        """Refuse bytes that are no request once all complete requests have their answers."""
        if self._lingering or self.transport.is_closing():
            return  # the last answer has been given
        refusal = self._refusal or ApiError(
            400, "The request is not valid HTTP.", code="invalid_http"
        )
        broken, self._exchange = self._exchange, None
        if broken is not None and broken is self._active:
            broken.body_is_broken(refusal)
            return
        if broken is not None:
            self._line.pop()
            broken.client_gone()
        self._last_words = refusal
        if self._active is None:
            self._say_last_words(refusal)
        else:
            self.flow.pause_reading()

    def _say_last_words(self, refusal: ApiError) -> None:
        body = refusal.body()
        head = [STATUS_LINE[refusal.status], self.head_lines()]
        if self.state.cors is not None:
            head.append(self.state.cors.lines(origin_of(self.headers or ())))
        for name, value in [
            *refusal.headers(),
            (b"x-request-id", new_request_id().encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]:
            head.append(name + b": " + value + b"\r\n")
        self.transport.write(b"".join([*head, b"\r\n", body]))
        if self._is_surplus or not self.transport.can_write_eof():
            self.transport.close()
        else:
            # What the client is still sending would reset a closed connection, and the answer
            # with it.
            self.linger()
            self.flow.resume_reading()
            self.transport.write_eof()

    def _read_on(self) -> None:
        """Read further requests, unless enough of them wait or none may follow."""
        if not self._line and self._last_words is None:
            self.flow.resume_reading()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._lingering or self.transport.is_closing():
            raise ValueError("no request after the last one")
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._between = False
        self._head_bytes = self._bodiless_bytes = 0
        self._exchange = None
        if self._active is None and self._deadline > time.monotonic() + self._head_seconds():
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is only counted, because trailers mean nothing here."""
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._options.max_header_bytes:
            self._refusal = head_too_large(self._options.max_header_bytes)
            raise ValueError(self._refusal.message)

    def on_headers_complete(self) -> None:
        """Do the checks that the parser omits, then choose the lane or the application."""
        self._in_head = False
        self._deadline = math.inf
        # The first request in the received data takes these bytes, even if it fails: they begin
        # with the head of this request, and with no other.
        first_bytes, self._first_bytes = self._first_bytes, b""
        route = BY_TARGET.get(self.url)
        method = self.parser.get_method()
        target = read_target(b"/" if route is not None or method == b"CONNECT" else self.url)
        self._refusal = self._check_head(target)
        if self._refusal is not None:
            raise ValueError(self._refusal.message)  # the parser turns it into a 400 response
        if method == b"CONNECT":
            raise ValueError("no tunnels")  # the parser turns it into a 400 response
        if route is None:
            route = BY_PATH.get(target.path)
        if route is not None and method == b"POST":
            self._take(route, first_bytes)
        else:
            self._pass_on(method.decode("ascii"), route.path if route else target.path)

    def on_body(self, body: bytes) -> None:
        """A piece of the body of the request that the parser is at."""
        self._bodiless_bytes = 0
        if self._exchange is not None:
            self._exchange.received(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request that has been read completely."""
        if self._framing:
            return  # the parser stops before the body of an upgrade request: see `upgrades`
        self._between = self._ended = True
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        self._exchange = None
        self.state.reading.discard(exchange)
        if self._active is exchange:
            self._complete(exchange)

    def _take(self, route: DataRoute, first_bytes: bytes) -> None:
        """Send the request down the lane."""
        version = self.parser.get_http_version()
        self.awaits_continue = self.expect_100_continue
        exchange = Exchange(
            self,
            route,
            RequestHead(self.headers),
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            chunked=version != "1.0",
        )
        self._exchange = exchange
        if self._active is None:
            self._active = exchange
            self._begin(exchange)
            if exchange.phase is Phase.READING:
                self._remember(exchange, first_bytes)
        else:
            self._queue(exchange, lambda: self._begin_late(exchange))

    def _take_known(self, known: KnownHead, body: bytes) -> None:
        """Send a request with a known head down the lane, without the parser."""
        self._deadline = math.inf
        self.awaits_continue = False
        exchange = Exchange(
            self, known.route, known.head, keep_alive=known.keep_alive, chunked=True, known=known
        )
        self._active = exchange
        exchange.begin()
        exchange.received(body)
        self._complete(exchange)

    def _remember(self, exchange: Exchange, data: bytes) -> None:
        """Keep the head of a request that is plain in every respect."""
        plain = not self.expect_100_continue and exchange.answer.chunked
        if data and plain and self._head_is_plain():
            known = KnownHead(exchange.route, exchange.head, keep_alive=exchange.http.keep_alive)
            self.state.known_heads.keep(data, known)

    def _head_is_plain(self) -> bool:
        """Whether there is exactly one `content-length` and no unusual header."""
        lengths = 0
        for name, _ in self.headers:
            if name in _UNUSUAL:
                return False
            lengths += name == b"content-length"
        return lengths == 1

    def _begin(self, exchange: Exchange) -> None:
        exchange.begin()
        if self.awaits_continue and not self._lingering:
            self.awaits_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin_late(self, exchange: Exchange) -> None:
        """Begin a request whose turn has come; it may have been read to its end by now."""
        self._begin(exchange)
        if self._active is not exchange:
            return
        if exchange is self._exchange:
            self._await_body(exchange)
        else:
            self._complete(exchange)

    def _await_body(self, exchange: Exchange) -> None:
        """Start the time limit of the body, whose rest is read from now on."""
        if exchange not in self.state.reading:
            self.state.reading.add(exchange)
            exchange.await_body(time.monotonic())

    def _complete(self, exchange: Exchange) -> None:
        try:
            exchange.received_all()
        except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
            exchange.crashed()

    def is_answering(self, exchange: Incoming) -> bool:
        """Whether it is this exchange's turn to send."""
        return self._active is exchange

    def _pass_on(self, method: str, path: str) -> None:
        """Pass the request to the application, as uvicorn does."""
        version = self.parser.get_http_version()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": self.url,
            "query_string": b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle = cycle
        if self._active is None:
            self._active = cycle
            self._start_asgi_task(cycle, self.app)
        else:
            self._queue(cycle, lambda: self._start_asgi_task(cycle, self.app))

    def _queue(self, waiting: Waiting, start: Callable[[], object]) -> None:
        self.flow.pause_reading()
        if len(self._line) == MAX_PIPELINED:
            self._exchange, self._refusal = None, _TOO_MANY_PIPELINED
            raise ValueError(_TOO_MANY_PIPELINED.message)
        self._line.append((waiting, start))

    def _check_head(self, target: Target) -> ApiError | None:
        if self._is_surplus:
            return TOO_MANY_CONNECTIONS
        version = self.parser.get_http_version()
        refusal = check_head(self.url, self.headers, version, self._options.max_header_bytes)
        if refusal is not None:
            return refusal
        if self.parser.should_upgrade():
            self._framing = body_framing(self.headers)
        if self._guards_host and not self.state.keys.required:
            return self.state.hosts.refusal_of(target.host, self.headers)
        return None

    # Answers

    def exchange_over(self, exchange: Incoming) -> None:
        """Go on after an exchange that has sent its answer, or whose client has left."""
        if self._active is not exchange:
            return
        if exchange.http.keep_alive and not self.transport.is_closing():
            self._next()
        else:
            self._finish()

    def on_response_complete(self) -> None:
        """Go on after the application has sent its answer."""
        if self.transport.is_closing():
            return
        self._next()

    def _next(self) -> None:
        """Answer the next request in line, or wait for one."""
        self.server_state.total_requests += 1
        self._active = None
        if self._line:
            if self.end_if_left():
                return  # nobody waits for the next answer
            self._active, start = self._line.popleft()
            self._read_on()  # the rest of its body may still be to come
            start()
        elif self._last_words is not None:
            self._say_last_words(self._last_words)
        elif self._exchange is None:
            self._deadline = time.monotonic() + IDLE_SECONDS
            if self.flow.write_paused:
                self.flow.pause_reading()  # read no further request while answers are not read
            else:
                self.flow.resume_reading()

    def _finish(self) -> None:
        """End the connection after this answer."""
        self._active = None
        for one, _ in self._line:
            if isinstance(one, Exchange):
                one.client_gone()  # its turn never comes
        self._line.clear()
        if not self._lingering:
            self.transport.close()
            self._deadline = time.monotonic() + self._options.client_timeout_seconds
        elif self.transport.can_write_eof():
            self.transport.write_eof()  # no more answers; incoming bytes are dropped


_TOO_MANY_PIPELINED: Final = ApiError(
    400,
    f"More than {MAX_PIPELINED} requests wait on this connection for earlier answers.",
    code="too_many_pipelined",
)
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"te"})


def protocol_with(state: ProxyState) -> Callable[..., DataProtocol]:
    """Return the factory of uvicorn's protocol objects."""

    def make(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> DataProtocol:
        return DataProtocol(state, config, server_state, app_state, _loop)

    return make
