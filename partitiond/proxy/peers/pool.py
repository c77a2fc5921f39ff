"""Keeps the connections to the proxy of one other host: HTTP/1.1 with TLS and certificates of both.

They are connections as to an engine (`engine.upstream`), made in another way.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from partitiond.core.dispatch.routing import UNIX
from partitiond.platform.unix_socket import socket_address
from partitiond.proxy.engine.upstream import ConnectionPool, UpstreamConnection

CONNECT_SECONDS: Final = 3.0
"""Limit for a connection and its handshake."""
IDLE_SECONDS: Final = 60.0
"""How long an idle connection is kept. A handshake costs as much as 20 short answers; its owner
keeps it a little longer."""
MAX_CONNECTING: Final = 64
"""Most handshakes with one host at once: more would take longer each, and pass their limit."""
SILENT_MILLISECONDS: Final = 10_000
"""How long a network may acknowledge nothing before its connection ends, at either end. Chosen."""


class PeerConnection(UpstreamConnection):
    """One connection to a peer.

    Attributes:
        context: with which the owner's certificate was checked; None without TLS.
    """

    __slots__ = ("context",)

    def __init__(self, pool: "PeerPool", context: ssl.SSLContext | None) -> None:
        super().__init__(pool)
        self.context = context


class PeerPool(ConnectionPool):
    """The connections to one peer.

    Attributes:
        proved: failures whose requests others have answered, of which it was not told yet.

    Args:
        address: of the peer, as in the routing table.
        context: returns the context for TLS that is in force; None where none is set.
    """

    connect_seconds = CONNECT_SECONDS
    idle_seconds = IDLE_SECONDS

    def __init__(self, address: str, context: Callable[[], ssl.SSLContext] | None) -> None:
        super().__init__(address)
        self.proved: set[tuple[str, int]] = set()
        self._context = context
        self._turns = asyncio.Semaphore(MAX_CONNECTING)

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context in force; None for a path."""
        is_path = self.socket_path.startswith(UNIX)
        return None if is_path or self._context is None else self._context()

    def take(self) -> PeerConnection | None:
        """Return an open connection that was made with the certificates in force, or None."""
        context = self.context()
        while (found := self.reuse(time.monotonic())) is not None:
            assert isinstance(found, PeerConnection)
            if found.context is context:
                return found
            found.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """Open a new connection. Raises AttemptError."""
        async with self._turns:
            return await super().connect()

    async def _open(self) -> UpstreamConnection:
        loop, address, context = asyncio.get_running_loop(), self.socket_path, self.context()
        connection = PeerConnection(self, context)
        protocol = cast("asyncio.Protocol", connection)
        if address.startswith(UNIX):
            with socket_address(address.removeprefix(UNIX)) as path:
                await loop.create_unix_connection(lambda: protocol, path)
            return connection
        if context is None:
            raise ConnectionError("no certificates are set, and hosts talk by TLS alone")
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, host, int(port), ssl=context, server_hostname=host
            )
        except asyncio.CancelledError:
            connection.close()  # else, once open, it would wait for the peer's goodbye
            raise
        except (ValueError, OverflowError) as error:  # what its host says is no address
            raise ConnectionError(str(error)) from error
        end_when_silent(transport.get_extra_info("socket"))
        return connection


def end_when_silent(connection: socket.socket) -> None:
    """Let the kernel end a connection whose other side's machine or network is gone."""
    if connection.family == socket.AF_UNIX:
        return
    seconds = SILENT_MILLISECONDS // 1000
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)
