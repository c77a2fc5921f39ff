"""Turns accepted sockets into client connections, with a TLS handshake if TLS is on.

asyncio's own server does not expose connections that are in their handshake, so they could not be
counted. This module bounds them, by number and by address. If there are too many, the oldest is
dropped, so that clients that never finish their handshake cannot keep others out.
"""

import asyncio
import functools
import math
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final, cast

from partitiond.proxy.edge.addresses import Addresses

if TYPE_CHECKING:
    from partitiond.proxy.edge.state import ProxyState
    from partitiond.proxy.listening.tls import ServerTls

LEAST_HANDSHAKES: Final = 64
HANDSHAKE_SHARE: Final = 0.125
"""Most handshakes at once, as a share of the limit on connections and at least. Both are chosen."""
HANDSHAKE_FAILED: Final = "tls_handshake"
"""Counted as a refusal: client and server found no common parameters, or not in time."""


class Openings:
    """Connections that are being opened; beyond a limit, the oldest is dropped for a further one.

    Args:
        limit: most at once.
        gone: called for each that was dropped before anything was done with it. Once its opening
            has begun, the opening hears that it is cancelled.
    """

    def __init__(self, limit: float, gone: Callable[[], object]) -> None:
        self._limit = limit
        self._gone = gone
        self._tasks: dict[asyncio.Task[None], None] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, connection: socket.socket, opening: Coroutine[None, None, None]) -> None:
        """Run the opening of a connection that was accepted."""
        task = asyncio.get_running_loop().create_task(opening)
        self._tasks[task] = None
        task.add_done_callback(functools.partial(self._ended, connection))
        if len(self._tasks) > self._limit:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            oldest.cancel()

    def close(self) -> None:
        """Drop all."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, connection: socket.socket, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if task.cancelled():  # before it began
            connection.close()
            self._gone()


class Opener:
    """Opens connections, and owns those that are in their handshake.

    Args:
        make: makes the protocol of an open connection.
        tls: of the listener, or None.
        gone: called for each socket that does not become a connection.
    """

    def __init__(
        self,
        make: Callable[[], object],
        state: "ProxyState",
        tls: "ServerTls | None",
        gone: Callable[[], object] = lambda: None,
    ) -> None:
        options = state.options
        self._make = cast("Callable[[], asyncio.Protocol]", make)
        self._state = state
        self._tls = tls
        self._gone = gone
        limit = max(LEAST_HANDSHAKES, int(options.max_connections * HANDSHAKE_SHARE))
        self._opening = Openings(math.inf if tls is None else limit, gone)
        self._seconds = options.client_timeout_seconds
        self._addresses = Addresses(options.max_connections_per_address, options.trusted_proxies)

    def __len__(self) -> int:
        return len(self._opening)

    def open(self, connection: socket.socket) -> None:
        """Begin to open a connection."""
        connection.setblocking(False)
        self._opening.begin(connection, self._open(connection))

    def close(self) -> None:
        """Drop the connections that are not open yet."""
        self._opening.close()

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
                ssl=tls.context(),
                ssl_handshake_timeout=self._seconds,
                # This also limits the time for sending the rest after the connection is closed.
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError:
            self._state.metrics.refusals[HANDSHAKE_FAILED] += 1
            raise
        finally:
            self._addresses.closed(address)


def _peer(connection: socket.socket) -> str:
    try:
        name = connection.getpeername()
    except OSError:  # the client has already left
        return ""
    return name[0] if isinstance(name, tuple) else ""
