"""Enforces the time limits of one client's connection, and ends it. `data_protocol` reads it."""

import asyncio
import fcntl
import logging
import math
import select
import struct
import termios
import time
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from partitiond.proxy.edge.hosts import is_loopback
from partitiond.proxy.edge.origins import plain_address
from partitiond.proxy.edge.state import ProxyState

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

_logger = logging.getLogger("partitiond.proxy")


class ClientConnection(HttpToolsProtocol):
    """One client's connection (see the module).

    Attributes:
        address: the client's address, or empty.
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
        """Host names that are not ours may resolve to us (see `hosts`); TLS rules this out."""
        self._is_surplus = False
        self._lingering = False
        self._dropped_bytes = 0
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
        """Forget the connection."""
        self.state.connections.discard(self)
        self.state.addresses.closed(self.address)
        super().connection_lost(exc)

    def sweep(self, now: float) -> None:
        """Check whether a time limit of the connection has passed."""
        if now > self._deadline:
            self._deadline = math.inf
            self.transport.abort() if self._lingering else self._give_up_waiting()
        elif self.transport.is_closing():
            if self._is_tls:
                self._sweep_goodbye(now)
        elif self.flow.read_paused:
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

    def _give_up_waiting(self) -> None:
        """Close the connection because no request came in time."""
        # If the client does not read the unsent bytes, closing would wait for ever.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close without sending the bytes that the client does not read."""
        self.transport.abort()

    def crashed(self) -> None:
        """Log a bug of ours and close the connection; call it inside `except`."""
        _logger.exception("a connection failed inside the proxy")
        self.transport.abort()

    def linger(self) -> None:
        """Take no further request: drop incoming bytes, then close."""
        self._lingering = True
        self._deadline = time.monotonic() + LINGER_SECONDS

    def _drop(self, size: int) -> None:
        """Count bytes that mean nothing any more; they are dropped."""
        self._dropped_bytes += size
        if self._dropped_bytes > LINGER_BODIES * self._options.max_body_bytes:
            self.flow.pause_reading()

    def head_lines(self) -> bytes:
        """Return the headers that every answer has."""
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


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """Written bytes that the kernel still holds because the client has not read them.

    The buffers of a TLS transport are not visible from outside, but they drain into the kernel's
    buffer, which is therefore the last to be empty.
    """
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (AttributeError, OSError, ValueError):
        return 0  # it is closed
    return int(struct.unpack("i", answer)[0])
