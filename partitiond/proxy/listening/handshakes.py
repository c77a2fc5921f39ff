"""Turns accepted sockets into connections, with a TLS handshake if TLS is on.

asyncio's own server does not expose connections that are in their handshake, so they could not be
counted. This module bounds them. If there are too many, the oldest is dropped, so that clients that
never finish their handshake cannot keep others out.
"""

import asyncio
import functools
import math
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from partitiond.proxy.edge.answer import ClientSide
from partitiond.proxy.edge.data_protocol import DataProtocol
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.listening.tls import ServerTls

LEAST_HANDSHAKES: Final = 64
HANDSHAKE_SHARE: Final = 0.125
"""Most handshakes at once, as a share of the limit on connections and at least. Both are chosen."""
HANDSHAKE_FAILED: Final = "tls_handshake"
"""Counted as a refusal: client and server found no common parameters, or not in time."""


class Opener:
    """Opens connections, and owns those that are in their handshake.

    Args:
        make: makes the protocol of a connection, before its handshake.
        context: returns the TLS context of the next handshake; None for no TLS.
        limit: most handshakes at once.
        seconds: limit of a handshake, and of sending the rest after the connection is closed.
        failed: called for each handshake that fails, or that is dropped for a further one.
        gone: called for each socket that does not become a connection.
    """

    def __init__(
        self,
        make: Callable[[], ClientSide],
        context: Callable[[], ssl.SSLContext] | None,
        *,
        limit: int,
        seconds: float,
        failed: Callable[[], object],
        gone: Callable[[], object] = lambda: None,
    ) -> None:
        self._make = make
        self._context = context
        self._limit = math.inf if context is None else limit
        self._seconds = None if context is None else seconds
        self._failed = failed
        self._gone = gone
        self._tasks: dict[asyncio.Task[None], None] = {}  # oldest first
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def open(self, connection: socket.socket) -> None:
        """Begin to open a connection that was accepted."""
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._open(connection))
        self._tasks[task] = None
        task.add_done_callback(functools.partial(self._ended, connection))
        if len(self._tasks) > self._limit:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            if oldest.cancel():  # else it has just ended
                self._failed()

    def close(self) -> None:
        """Drop the connections that are not open yet.

        What waits for no handshake opens first: uvloop forgets what is cancelled as it opens.
        """
        self._closed = True
        if self._context is not None:
            for task in self._tasks:
                task.cancel()

    def _ended(self, connection: socket.socket, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if task.cancelled():  # before it began
            connection.close()
            self._gone()

    async def _open(self, connection: socket.socket) -> None:
        made: ClientSide | None = None
        try:
            made = self._make()
            protocol = cast("asyncio.Protocol", made)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=None if self._context is None else self._context(),
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
            if self._closed:
                made.transport.abort()
        except (OSError, asyncio.CancelledError) as error:
            if isinstance(error, OSError) and self._context is not None:
                self._failed()
            if made is not None and made.was_opened:  # else the loop waits for a goodbye
                made.transport.abort()
            else:
                connection.close()
                self._gone()


def open_clients(
    state: ProxyState, tls: ServerTls | None, gone: Callable[[], object] = lambda: None
) -> Opener:
    """Return what opens the connections of clients."""
    options = state.options
    return Opener(
        functools.partial(DataProtocol, state),
        None if tls is None else tls.current,
        limit=max(LEAST_HANDSHAKES, int(options.max_connections * HANDSHAKE_SHARE)),
        seconds=options.client_timeout_seconds,
        failed=lambda: state.metrics.refusals.update((HANDSHAKE_FAILED,)),
        gone=gone,
    )
