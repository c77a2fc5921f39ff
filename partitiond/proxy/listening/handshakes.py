"""Turns accepted sockets into client connections, with a TLS handshake if TLS is on.

asyncio's own server does not expose connections that are in their handshake, so they could not be
counted. This module bounds them, by number and by address. If there are too many, the oldest is
dropped, so that clients that never finish their handshake cannot keep others out.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from partitiond.proxy.edge.addresses import Addresses

if TYPE_CHECKING:
    import uvicorn

    from partitiond.proxy.edge.state import ProxyState
    from partitiond.proxy.listening.tls import ServerTls

LEAST_HANDSHAKES: Final = 64
HANDSHAKE_SHARE: Final = 0.125
"""Most handshakes at once, as a share of the limit on connections and at least. Both are chosen."""
FULL_SECONDS: Final = 0.01
"""How long connections wait in the kernel when there are too many open files."""
HANDSHAKE_FAILED: Final = "tls_handshake"
"""Counted as a refusal: client and server found no common parameters, or not in time."""

_logger = logging.getLogger("partitiond.proxy")


class Opener:
    """Opens connections, and owns those that are in their handshake.

    Args:
        server: the server that gets the open connections.
        tls: of the listener, or None.
        gone: called for each socket that does not become a connection.
    """

    def __init__(
        self,
        server: "uvicorn.Server",
        state: "ProxyState",
        tls: "ServerTls | None",
        gone: Callable[[], object] = lambda: None,
    ) -> None:
        options = state.options
        self._server = server
        self._state = state
        self._tls = tls
        self._gone = gone
        self._limit = max(LEAST_HANDSHAKES, int(options.max_connections * HANDSHAKE_SHARE))
        self._seconds = options.client_timeout_seconds
        self._addresses = Addresses(options.max_connections_per_address, options.trusted_proxies)
        self._opening: dict[asyncio.Task[None], None] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._opening)

    def open(self, connection: socket.socket) -> None:
        """Begin to open a connection."""
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._open(connection))
        self._opening[task] = None
        task.add_done_callback(lambda done: self._opening.pop(done, None))
        if self._tls is not None and len(self._opening) > self._limit:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()

    def close(self) -> None:
        """Drop the connections that are not open yet."""
        for task in self._opening:
            task.cancel()

    async def _open(self, connection: socket.socket) -> None:
        address = _peer(connection)
        try:
            if self._tls is None:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(self._make, connection)
            else:
                await self._shake_hands(connection, address, self._tls)
        except (OSError, asyncio.CancelledError):
            connection.close()
            self._gone()

    async def _shake_hands(self, connection: socket.socket, address: str, tls: "ServerTls") -> None:
        beyond = self._addresses.opened(address)
        try:
            if beyond:
                raise ConnectionRefusedError
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                connection,
                ssl=tls.context,
                ssl_handshake_timeout=self._seconds,
                # This also limits the time for sending the rest after the connection is closed.
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError:
            self._state.metrics.refusals[HANDSHAKE_FAILED] += 1
            raise
        finally:
            self._addresses.closed(address)

    def _make(self) -> asyncio.Protocol:
        config = self._server.config
        protocol: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config,
            server_state=self._server.server_state,
            app_state={},
            _loop=asyncio.get_running_loop(),
        )
        return protocol


async def accept_all(listener: socket.socket, opener: Opener) -> None:
    """Accept connections for ever, for a proxy that is one process."""
    loop = asyncio.get_running_loop()
    failing = False
    while True:
        try:
            connection, _address = await loop.sock_accept(listener)
        except OSError as error:
            if not failing:
                _logger.error("connections cannot be accepted: %s", error)
            failing = True
            await asyncio.sleep(FULL_SECONDS)
        else:
            failing = False
            opener.open(connection)


def _peer(connection: socket.socket) -> str:
    try:
        name = connection.getpeername()
    except OSError:  # the client has already left
        return ""
    return name[0] if isinstance(name, tuple) else ""
