"""Enforces the time limits of one client's connection, and ends it. `data_protocol` serves it."""

import asyncio
import logging
import math
import select
import time
from typing import Final

from partitiond.proxy.edge.hosts import is_loopback
from partitiond.proxy.edge.origins import plain_address
from partitiond.proxy.edge.request_connection import RequestConnection
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.edge.unread import unsent_bytes

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


class ClientConnection(RequestConnection):
    """One client's connection (see the module).

    Attributes:
        read_paused: the connection is not read at the moment.
    """

    def __init__(self, state: ProxyState) -> None:
        super().__init__(state, state.options.max_header_bytes)
        self.read_paused = False
        self._options = state.options
        self._is_tls = False
        self._guards_host = False
        """Host names that are not ours may resolve to us (see `hosts`); TLS rules this out."""
        self._is_surplus = False
        self._lingering = False
        self._dropped_bytes = 0
        self._deadline = math.inf
        self._closed_at = math.inf

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first head."""
        super().connection_made(transport)
        state = self.state
        state.connections.add(self)
        state.start_sweeping()
        self.address = plain_address(_host(transport.get_extra_info("peername")))
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        own = _host(transport.get_extra_info("sockname"))
        self._guards_host = not self._is_tls and is_loopback(own)
        self._is_surplus = len(state.connections) > self._options.max_connections
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

    # Calls of the state and its sweeper

    def shut_down(self) -> None:
        """End the connection once the request under way has been answered."""
        raise NotImplementedError

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

    def _give_up_waiting(self) -> None:
        """Close the connection because no request came in time."""
        # If the client does not read the unsent bytes, closing would wait for ever.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

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


def _host(name: object) -> str:
    """Return the address in a socket's name; empty if it is a Unix socket's."""
    return str(name[0]) if isinstance(name, tuple) else ""
