"""Listens for the proxies of other hosts, and tells them the load of this one."""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from partitiond.core.dispatch.balance import limit_of
from partitiond.core.dispatch.peer_loads import TELL_SECONDS
from partitiond.core.dispatch.reputation import Trust
from partitiond.core.dispatch.routing import UNIX
from partitiond.core.errors import DeviceError, SettingsError
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.listening.acceptor import Accepting
from partitiond.proxy.listening.handshakes import Opener, count_failed
from partitiond.proxy.listening.opening import listen_tcp, listen_unix
from partitiond.proxy.peer_server.connection import OwnerConnection
from partitiond.proxy.peers.messages import (
    Counts,
    LatelyPlaced,
    ModelCounts,
    News,
    ReplicaCounts,
    encode,
)
from partitiond.proxy.peers.tls import PeerTls

HANDSHAKE_SECONDS: Final = 5.0
"""Limit for a handshake. Chosen."""
MAX_HANDSHAKES: Final = 1024
"""Most connections in their handshake; the oldest is dropped for a further one. Chosen: 16 hosts
that call with as many as they may at once (`peers.pool`)."""
MAX_CONNECTIONS: Final = 16_384
"""Most connections of one host to this process, each with one request. Its proxy has 10,000
connections of clients by default."""
MAX_LOGGED: Final = 64
"""Most names of which is remembered what was logged. Chosen."""
HANDSHAKE_FAILED: Final = "peer_handshake"
"""Counted as a refusal: who called has no certificate of the fleet, or found no common terms."""
SWEEP_SECONDS: Final = 1.0
"""How often connections that do nothing are looked for."""
_LOAD_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

_logger = logging.getLogger("partitiond.proxy")


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
            lambda: OwnerConnection(state, self, self._authorities()),
            None if tls is None else lambda: tls.current().server,
            limit=MAX_HANDSHAKES,
            seconds=HANDSHAKE_SECONDS,
            failed=count_failed(state.metrics.refusals, HANDSHAKE_FAILED),
            gone=gone,
        )
        self.open = self._opener.open
        self._known: tuple[object, frozenset[bytes]] = (None, frozenset())
        self._of_host: Counter[str] = Counter()

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
        known = (self._state.table, self._authorities())
        if connection.let_in == known and connection.peer == host:
            return ""
        if connection.peer not in {"", host}:
            return f"called itself {connection.peer} before"
        if not connection.peer and self._of_host[host] >= MAX_CONNECTIONS:
            return f"has {MAX_CONNECTIONS} connections already"
        why = self._stranger(connection, host)
        if not why:
            if not connection.peer:
                connection.peer = host
                self._of_host[host] += 1
            connection.let_in = known
            self._logged.pop(host, None)
        return why

    def _authorities(self) -> frozenset[bytes]:
        return frozenset() if self._tls is None else self._tls.current().authorities

    def _stranger(self, connection: OwnerConnection, host: str) -> str:
        """Return why who calls itself so is no host of the fleet, or empty."""
        if not connection.authorities <= self._authorities():
            return "was let in by a former authority"
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
        """Tell nothing more to a host that is none of the fleet's any more, or that showed a
        certificate of a former authority, and end its idle connections.
        """
        known = (self._state.table, self._authorities())
        if known == self._known:
            return
        self._known = known
        for one in list(self.connections):
            if one.peer and self._stranger(one, one.peer):
                one.leave()

    # Connections

    def opened(self, connection: OwnerConnection) -> None:
        """Note a connection that is open."""
        self.connections.add(connection)
        self._keep_time()

    def lost(self, connection: OwnerConnection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        self._listeners.discard(connection)
        if connection.peer:
            self._of_host[connection.peer] -= 1
            if not self._of_host[connection.peer]:
                del self._of_host[connection.peer]
        self._gone()

    def listens(self, connection: OwnerConnection) -> None:
        """Tell the load of this host on a connection from now on."""
        self._listeners.add(connection)
        connection.transport.write(_LOAD_HEAD)
        connection.tell(_line(News(counts_of(self._state, time.monotonic()))))
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
                self._tell(now)
            if now - self._swept_at > SWEEP_SECONDS:
                self._swept_at = now
                for one in list(self.connections):
                    one.sweep(now)
        except Exception:
            _logger.exception("peers could not be told the load of this host")
        if self.connections:
            self._keep_time()

    def _tell(self, now: float) -> None:
        lately = []
        for name, model in self._state.models.items():
            news = model.affinity.take_news()
            if news:
                lately.append(LatelyPlaced(name, news))
        line = _line(News(counts_of(self._state, now), lately))
        for one in list(self._listeners):
            one.tell(line)


def _line(news: News) -> bytes:
    return encode(news) + b"\n"


def counts_of(state: ProxyState, now: float) -> Counts:
    """Return the load of the models that have replicas here."""
    return {name: _count(model, now) for name, model in state.models.items() if model.replicas}


def _count(model: LiveModel, now: float) -> ModelCounts:
    slots = model.slots
    slots.look_at_speeds(now)
    elsewhere, sequences = slots.places.waiting_elsewhere()
    model.refresh()
    return ModelCounts(
        [
            ReplicaCounts(
                replica.replica_id,
                replica.sequences,
                limit_of(replica),
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
    """Open the listening socket for peers.

    Raises:
        DeviceError: the port is in use.
        SettingsError: the address is none of this machine.
    """
    if address.startswith(UNIX):
        return listen_unix(Path(address.removeprefix(UNIX)))
    text, _, number = address.rpartition(":")
    host, port = text.strip("[]"), int(number)
    facts = {"host": host, "peers_port": port}
    try:
        return listen_tcp(host, port)
    except DeviceError as error:
        raise DeviceError(
            f"Port {port} on {host}, for the endpoints of other hosts, is in use by another "
            "program.",
            hint=f"Find it with `ss -ltnp 'sport = :{port}'`, or set [proxy] peers_port to a free "
            "one.",
            facts=facts,
        ) from error
    except SettingsError as error:
        raise SettingsError(
            f"The endpoint cannot listen for those of other hosts on {host}:{port}.",
            hint="Set [cluster] address to an address of this machine, and [proxy] peers_port to "
            "1024 or above.",
            facts=facts,
        ) from error
