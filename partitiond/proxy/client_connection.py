"""One client's connection: how long it may stay, and how it ends. Its requests are `lane`'s."""

import asyncio
import logging
import math
import select
import time
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from partitiond.proxy.hosts import is_loopback
from partitiond.proxy.origins import plain_address
from partitiond.proxy.state import ProxyState
from partitiond.proxy.tls import unsent_bytes

SURPLUS_SECONDS: Final = 1.0
"""A connection beyond the limit is answered when its head comes: closing it sooner would reset
what the client is sending, and it would not see why."""
LINGER_SECONDS: Final = 2.0
"""After a refusal that did not wait for its body, what still comes is dropped for so long."""
GOODBYE_SECONDS: Final = 0.25
"""A client that has everything has so long to end TLS from its side, too."""
IDLE_SECONDS: Final = 75.0
"""A connection without a request is kept so long."""

_logger = logging.getLogger("partitiond.proxy")


class ClientConnection(HttpToolsProtocol):
    """See the module.

    Attributes:
        address: of the connection's other end, or empty.
    """

    def __init__(
        self,
        state: ProxyState,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.state = state
        self.address = ""
        self._options = state.options
        self._is_tls = False
        self._guards_host = False
        """Names may lead here that are not ours (see `hosts`); TLS would show that by itself."""
        self._is_surplus = False
        self._lingering = False
        self._deadline = math.inf
        self._closed_at = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first head."""
        super().connection_made(transport)
        self.state.connections.add(self)
        self.state.start_sweeping()
        self.address = plain_address(self.client[0]) if self.client else ""
        self._is_tls = self.scheme == "https"
        self._guards_host = (
            not self._is_tls and self.server is not None and is_loopback(self.server[0])
        )
        beyond = self.state.addresses.opened(self.address)
        self._is_surplus = beyond or len(self.connections) > self._options.max_connections
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.state.connections.discard(self)
        self.state.addresses.closed(self.address)
        super().connection_lost(exc)

    def sweep(self, now: float) -> None:
        """Look whether a time limit of the connection was passed."""
        if now > self._deadline:
            self._deadline = math.inf
            self.transport.abort() if self._lingering else self._give_up_waiting()
        elif self.transport.is_closing():
            if self._is_tls:
                self._sweep_goodbye(now)
        elif self.flow.read_paused:
            self.end_if_left()

    def end_if_left(self) -> bool:
        """End it where the client has closed its side, as is done at once while it is read.

        While reading is paused the event loop does not tell, and there may be unread bytes before
        the end: so the kernel is asked. Returns whether it was ended.
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
        """A connection that was closed waits for the client to agree, which many never do."""
        if self._closed_at == math.inf:
            self._closed_at = now
        elif now - self._closed_at > GOODBYE_SECONDS and not unsent_bytes(self.transport):
            self.transport.abort()

    def _give_up_waiting(self) -> None:
        """No request came in time."""
        # With bytes that the client does not take, closing would wait for it for ever.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close without sending what the client does not take."""
        self.transport.abort()

    def crashed(self) -> None:
        """A bug of ours, inside `except`."""
        _logger.exception("a connection failed inside the proxy")
        self.transport.abort()

    def linger(self) -> None:
        """Take no further request: drop what comes, then close."""
        self._lingering = True
        self._deadline = time.monotonic() + LINGER_SECONDS

    def head_lines(self) -> bytes:
        """Headers of every answer."""
        lines = b""
        for name, value in self.server_state.default_headers:
            lines += name + b": " + value + b"\r\n"
        return lines

    def _head_seconds(self) -> float:
        seconds = self._options.client_timeout_seconds
        # A surplus connection stays just long enough to be answered.
        return min(seconds, SURPLUS_SECONDS) if self._is_surplus else seconds

    def _await_head(self) -> None:
        self._deadline = time.monotonic() + self._head_seconds()
