"""Listens for the proxies of other hosts, takes their requests, and tells them this one's load."""

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from partitiond.core.dispatch.peer_loads import TELL_SECONDS
from partitiond.core.dispatch.reputation import Trust
from partitiond.core.dispatch.routing import UNIX
from partitiond.core.units import KIB
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.edge.exchange import Sender
from partitiond.proxy.edge.request_connection import RequestConnection
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.engine.framing import HOP, LAST_CHUNK
from partitiond.proxy.listening.acceptor import Accepting
from partitiond.proxy.listening.handshakes import Opener
from partitiond.proxy.listening.opening import listen_tcp, listen_unix
from partitiond.proxy.peer_server.request import PeerRequest
from partitiond.proxy.peers.host import LOAD_PATH
from partitiond.proxy.peers.messages import (
    PROTOCOL,
    Counts,
    Failed,
    ModelCounts,
    News,
    ReplicaCounts,
    encode,
    read_open,
)
from partitiond.proxy.peers.pool import IDLE_SECONDS, end_when_silent
from partitiond.proxy.peers.tls import PeerTls
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.routes import BY_TARGET

HANDSHAKE_SECONDS: Final = 5.0
"""Limit for a handshake. Chosen."""
MAX_HANDSHAKES: Final = 1024
"""Most connections in their handshake; the oldest is dropped for a further one. Chosen: 16 hosts
that call with as many as they may at once (`peers.pool`)."""
MAX_LOGGED: Final = 64
"""Most names of which is remembered what was logged. Chosen."""
HANDSHAKE_FAILED: Final = "peer_handshake"
"""Counted as a refusal: who called has no certificate of the fleet, or found no common terms."""
MAX_HEAD_BYTES: Final = 64 * KIB
"""Larger heads end the connection. What an entry tells of a request is some hundred bytes."""
SWEEP_SECONDS: Final = 1.0
"""How often connections that do nothing are looked for."""
_LOAD_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

_logger = logging.getLogger("partitiond.proxy")


class OwnerConnection(RequestConnection):
    """The owner's end of a connection to the proxy of another host.

    Attributes:
        peer: name of the entry's host; empty until it is let in.
        let_in: the table by which the entry was let in.
        context: with which the entry's certificate was checked; None without TLS.
        listens: its entry is told the load of this host.
    """

    def __init__(
        self, state: ProxyState, server: "PeerServer", context: ssl.SSLContext | None
    ) -> None:
        super().__init__(state, MAX_HEAD_BYTES)
        self.context = context
        self.peer = ""
        self.let_in: object = None
        self.listens = False
        self._server = server
        self._is_last = False
        self._idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for requests; from now on, the end of the connection is told."""
        super().connection_made(transport)
        end_when_silent(transport.get_extra_info("socket"))
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request, because nobody waits for it."""
        self._server.lost(self)
        super().connection_lost(exc)

    # Requests

    def on_message_begin(self) -> None:
        """Begin a request; an entry asks again once it has all of the answer before."""
        if self.listens:
            raise ValueError("a request where the load is told")
        super().on_message_begin()
        self._unread.forget()

    def head_complete(self) -> None:
        """Begin to serve the request, or refuse it."""
        headers = dict(self._headers)
        host = headers.get(b"x-partitiond-host", b"").decode("latin-1")
        protocol = headers.get(b"x-partitiond-protocol", b"").decode("latin-1")
        why = f"speaks version {protocol[:8] or 'none'} of the protocol, not {PROTOCOL}"
        if protocol == str(PROTOCOL):
            why = self._server.refusal(self, host)
        if why:
            self._is_last = True
            self._server.log_refusal(host, why)
            self._refuse(403, f"it {why}")
        elif self._server.is_leaving:
            self._is_last = True
            self._refuse(503, "The owner shuts down.")
        elif self._url == LOAD_PATH.encode():
            self.listens = True
            self._server.listens(self)
        else:
            try:
                self._begin(headers)
            except ValueError as error:
                self._refusal = ApiError(400, f"{error}.")
                raise

    def _begin(self, headers: dict[bytes, bytes]) -> None:
        asked = read_open(headers.get(HOP, b""))
        size = int(headers.get(b"content-length", b""))
        route = BY_TARGET.get(self._url)
        if route is None:
            self._refuse(503, "The owner knows no such route.")
        else:
            self._idle_since = time.monotonic()
            self.request = PeerRequest(self, self.peer, route, asked, size)

    def _refuse(self, status: int, message: str) -> None:
        told = encode(Failed(status, "upstream_connect", message, 1, refused=True))
        self.transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\n%b: %b\r\ncontent-length: 0\r\n\r\n" % (HOP, told)
        )

    def refuse_rest(self, refusal: ApiError) -> None:
        """End the connection: a proxy sends no such thing."""
        self._server.log_refusal(self.peer, f"sent what is no request: {refusal.message}")
        self.transport.abort()

    def complete_refused(self) -> None:
        """Go on after a request that was refused."""
        if not self.listens:
            self._rest()

    def answered(self, request: Sender) -> None:
        """Go on after a request that has ended; if its answer is not whole, the connection ends."""
        if request.answer.ended:
            self._rest()
        else:
            self.transport.abort()

    def _rest(self) -> None:
        self._idle_since = time.monotonic()
        if self._is_last:
            self.transport.close()

    # Calls of the server

    def tell(self, line: bytes) -> None:
        """Send the load of this host, if the entry reads."""
        if not self.write_paused:
            self.transport.write(b"%x\r\n%b\r\n" % (len(line), line))

    def leave(self) -> None:
        """Take no further request; end once the one that runs has ended."""
        self._is_last = True
        if self.listens:
            self.transport.write(LAST_CHUNK)
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
            limit = 2 * IDLE_SECONDS if self._between and not self.listens else longest
            if not self.listens and now - self._idle_since > limit:
                self.transport.close()
        elif self.is_reading and now - self._idle_since > longest:
            self._is_last = True
            request.refuse(errors.BODY_TOO_SLOW)


class PeerServer:
    """The listener for peers, and its connections.

    Attributes:
        connections: those that are open.
        open: begins to open a connection that was accepted.
        is_leaving: it takes no further request.

    Args:
        tls: with which peers are known; None for a path, whose folder only the owner may open.
        gone: called for each connection that has ended, or was never opened.
    """

    def __init__(
        self,
        state: ProxyState,
        tls: PeerTls | None,
        gone: Callable[[], object] = lambda: None,
    ) -> None:
        self.is_leaving = False
        self.connections: set[OwnerConnection] = set()
        self._logged: dict[str, str] = {}
        self._gone = gone
        self._state = state
        self._tls = tls
        self._listeners: set[OwnerConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._accepting: Accepting | None = None
        self._opener = Opener(
            lambda: OwnerConnection(state, self, self._context()),
            None if tls is None else lambda: tls.current().server,
            limit=MAX_HANDSHAKES,
            seconds=HANDSHAKE_SECONDS,
            failed=lambda: state.metrics.refusals.update((HANDSHAKE_FAILED,)),
            gone=gone,
        )
        self.open = self._opener.open
        self._known: tuple[object, object] = (None, None)

    def __len__(self) -> int:
        return len(self.connections) + len(self._opener)

    def listen(self, listener: socket.socket) -> None:
        """Begin to take connections."""
        self._accepting = Accepting(listener, self.open, whose=" of other hosts")

    def leave(self) -> None:
        """Take no further connection and no further request; those that run go on."""
        self.is_leaving = True
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
        for one in list(self.connections):
            one.leave()

    def close(self) -> None:
        """End all connections."""
        self.leave()
        self._opener.close()
        for one in list(self.connections):
            one.transport.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Who is served

    def refusal(self, connection: OwnerConnection, host: str) -> str:
        """Return why a peer is refused, or empty.

        Args:
            host: that it says it is.
        """
        table = self._state.table
        if connection.let_in is table and connection.peer == host:
            return ""
        if connection.peer not in {"", host}:
            return f"called itself {connection.peer} before"
        why = self._stranger(connection, host)
        if not why:
            connection.peer = host
            connection.let_in = table
            self._logged.pop(host, None)
        return why

    def _context(self) -> ssl.SSLContext | None:
        return None if self._tls is None else self._tls.current().server

    def _stranger(self, connection: OwnerConnection, host: str) -> str:
        """Return why who calls itself so is no host of the fleet, or empty."""
        peer = next((peer for peer in self._state.table.peers if peer.host == host), None)
        if peer is None:
            return "is no host of this fleet"
        if self._tls is not None:
            certificate = connection.transport.get_extra_info("peercert")
            if not _names(certificate, host, peer.address):
                return f"calls itself {host[:64]}, which its certificate does not say"
        return ""

    def log_refusal(self, host: str, why: str) -> None:
        """Log why a peer is refused; one that is refused at each try is one line."""
        name = host[:64] or "unknown"
        if self._logged.get(name) == why:
            return
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[name] = why
        _logger.warning("a request of the proxy of host %s is refused: it %s", name, why)

    def _check_known(self) -> None:
        """Tell nothing more to a host that is none of the fleet's any more, and end its idle
        connections; so with those whose certificate was checked before certificates were renewed.
        """
        context, known = self._context(), self._known
        self._known = self._state.table, context
        if known == self._known:
            return
        for one in list(self.connections):
            if one.context is not context or (one.peer and self._stranger(one, one.peer)):
                one.leave()  # also if it has asked nothing yet

    # Connections

    def opened(self, connection: OwnerConnection) -> None:
        """Note a connection that is open; one whose handshake was overtaken by a renewal ends."""
        self.connections.add(connection)
        if connection.context is not self._context():
            connection.leave()
        self._keep_time()

    def lost(self, connection: OwnerConnection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        self._listeners.discard(connection)
        self._gone()

    def listens(self, connection: OwnerConnection) -> None:
        """Tell the load of this host on a connection from now on."""
        self._listeners.add(connection)
        connection.transport.write(_LOAD_HEAD)
        connection.tell(_line(News(counts_of(self._state))))
        self._keep_time()

    def _keep_time(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        try:
            self._check_known()
            if self._listeners:
                self._tell()
            if now - self._swept_at > SWEEP_SECONDS:
                self._swept_at = now
                for one in list(self.connections):
                    one.sweep(now)
        except Exception:
            _logger.exception("peers could not be told the load of this host")
        if self.connections:
            self._keep_time()

    def _tell(self) -> None:
        untold = {name: one.affinity.take_news() for name, one in self._state.models.items()}
        lately = {name: placed for name, placed in untold.items() if placed}
        line = _line(News(counts_of(self._state), lately))
        for one in list(self._listeners):
            one.tell(line)


def _line(news: News) -> bytes:
    return encode(news) + b"\n"


def counts_of(state: ProxyState) -> Counts:
    """Return the load of the models that have replicas here."""
    return {name: _count(model) for name, model in state.models.items() if model.replicas}


def _count(model: LiveModel) -> ModelCounts:
    slots = model.slots
    elsewhere, sequences = slots.places.waiting_elsewhere()
    model.refresh()
    return ModelCounts(
        [
            ReplicaCounts(
                replica.replica_id,
                replica.sequences,
                replica.max_sequences,
                replica.kv_tokens,
                replica.kv_cache_tokens,
                replica.draining,
                replica.doubt >= Trust.REFUSED,
                replica.doubt,
            )
            for replica in model.replicas.values()
        ],
        len(slots.queue) + elsewhere,
        slots.queue.sequences + sequences,
        slots.service.value,
    )


def _names(certificate: Any, host: str, address: str) -> bool:
    """Return whether a certificate is of this host, by its name or by its address."""
    names = {value for _, value in (certificate or {}).get("subjectAltName", ())}
    at = _address(address.rpartition(":")[0].strip("[]"))
    return host in names or at in {_address(name) for name in names}


def _address(text: str) -> object:
    """Return an address in the one way to write it; what is none as it is."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return text


def listen_for_peers(address: str) -> socket.socket:
    """Open the listening socket for peers. Raises as `listen_tcp`."""
    if address.startswith(UNIX):
        return listen_unix(Path(address.removeprefix(UNIX)))
    host, _, port = address.rpartition(":")
    return listen_tcp(host.strip("[]"), int(port), "[proxy] peers_port")
