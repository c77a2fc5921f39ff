"""From an accepted socket to a client's connection, through a TLS handshake where there is TLS.

asyncio's own server keeps connections that are in their handshake where nobody can count them.
They are bounded here, by number and by address; where there are too many the oldest goes first,
so that clients that never finish theirs cannot keep others out.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from partitiond.proxy.addresses import Addresses

if TYPE_CHECKING:
    import uvicorn

    from partitiond.proxy.state import ProxyState
    from partitiond.proxy.tls import ServerTls

LEAST_HANDSHAKES: Final = 64
HANDSHAKE_SHARE: Final = 0.125
"""Handshakes that may be under way at once, as a share of the connections that may be open."""
FULL_SECONDS: Final = 0.01
"""When no file is left, connections wait in the kernel for so long."""
HANDSHAKE_FAILED: Final = "tls_handshake"
"""Counted as a refusal: the client offered nothing that could be agreed on, or not in time."""

_logger = logging.getLogger("partitiond.proxy")


class Opener:
    """Opens connections; those in their handshake belong to it.

    Args:
        server: whose connections they become.
        tls: of the listener, or None.
        gone: called for each that does not become one.
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
        self._opening: dict[asyncio.Task[None], None] = {}  # in their order

    def __len__(self) -> int:
        return len(self._opening)

    def open(self, connection: socket.socket) -> None:
        """Begin to open it."""
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._open(connection))
        self._opening[task] = None
        task.add_done_callback(lambda done: self._opening.pop(done, None))
        if self._tls is not None and len(self._opening) > self._limit:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()

    def close(self) -> None:
        """Let go of those that are not open yet."""
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
                # Also the longest time for what a closed connection has still to be sent.
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
    """Accept for ever, for a proxy that is one process."""
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
    except OSError:  # it has gone already
        return ""
    return name[0] if isinstance(name, tuple) else ""
