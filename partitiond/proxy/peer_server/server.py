"""Listens for the proxies of other hosts, and tells them the load of this one."""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from partitiond.core.dispatch.balance import effective_limit
from partitiond.core.dispatch.peer_loads import TELL_SECONDS
from partitiond.core.dispatch.reputation import Trust
from partitiond.core.dispatch.routing import UNIX
from partitiond.core.errors import DeviceError, SettingsError
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.listening.acceptor import Accepting
from partitiond.proxy.listening.handshakes import Openings
from partitiond.proxy.listening.opening import listen_tcp, listen_unix
from partitiond.proxy.peer_server.connection import OwnerSocket
from partitiond.proxy.peers.messages import (
    PROTOCOL,
    Counts,
    Hello,
    LatelyPlaced,
    ModelCounts,
    ReplicaCounts,
    encode,
)
from partitiond.proxy.peers.tls import PeerTls

HANDSHAKE_SECONDS: Final = 5.0
"""Limit for a handshake. Chosen."""
MAX_HANDSHAKES: Final = 64
"""Most connections in their handshake; the oldest is dropped for a further one. Chosen."""
MAX_CONNECTIONS: Final = 64
"""Most connections of one host to this process: more than a host has workers, also while these are
replaced. Chosen."""
HANDSHAKE_FAILED: Final = "peer_handshake"
"""Counted as a refusal: who called has no certificate of the fleet, or found no common terms."""

_logger = logging.getLogger("partitiond.proxy")


class PeerServer:
    """The listener for peers, and its connections.

    Attributes:
        sockets: the connections.
        is_leaving: it takes no further request.
        complaints: what was logged of who was refused, by name, lest each try be a line.

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
        self.complaints: dict[str, str] = {}
        self._gone = gone
        self._state = state
        self._tls = tls
        self.sockets: set[OwnerSocket] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._accepting: Accepting | None = None
        self._opening = Openings(MAX_HANDSHAKES, gone)
        self._known: tuple[object, frozenset[bytes]] = (None, frozenset())

    def __len__(self) -> int:
        return len(self.sockets) + len(self._opening)

    def listen(self, listener: socket.socket) -> None:
        """Begin to take connections."""
        self._accepting = Accepting(listener, self.open, whose=" of other hosts")

    def open(self, connection: socket.socket) -> None:
        """Begin to open a connection that was accepted."""
        self._opening.begin(connection, self._open(connection))

    async def _open(self, connection: socket.socket) -> None:
        """Shake hands with who has called."""
        connection.setblocking(False)
        authorities = self._authorities()
        context = None if self._tls is None else self._tls.server()
        loop = asyncio.get_running_loop()
        own = Hello(PROTOCOL, self._state.table.host)
        made = OwnerSocket(own, self._state, self, authorities)
        protocol = cast("asyncio.Protocol", made)
        try:
            await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=None if context is None else HANDSHAKE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):
            self._state.metrics.refusals[HANDSHAKE_FAILED] += 1
            connection.close()
            if not made.was_opened:
                self._gone()

    def leave(self) -> None:
        """Take no further connection and no further request; those that run go on."""
        self.is_leaving = True
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
        for one in list(self.sockets):
            one.leave()

    def close(self) -> None:
        """End all connections."""
        self.leave()
        self._opening.close()
        for one in list(self.sockets):
            one.finish()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refusal(self, hello: Hello, socket: OwnerSocket) -> str:
        """Return why a peer is refused, or empty."""
        if sum(one.peer == hello.host for one in self.sockets) >= MAX_CONNECTIONS:
            return f"has {MAX_CONNECTIONS} connections already"
        return self._stranger(hello.host, socket)

    def _authorities(self) -> frozenset[bytes]:
        return frozenset() if self._tls is None else self._tls.authorities()

    def _stranger(self, host: str, socket: OwnerSocket) -> str:
        """Return why who calls itself so is no host of the fleet, or empty."""
        if not socket.authorities <= self._authorities():
            return "was let in by a former authority"
        peer = next((peer for peer in self._state.table.peers if peer.host == host), None)
        if peer is None:
            return "is no host of this fleet"
        if self._tls is not None:
            transport = cast("asyncio.Transport", socket.transport)
            certificate = transport.get_extra_info("peercert")
            if not _names(certificate, host, peer.address):
                return f"calls itself {host[:64]}, which its certificate does not say"
        return ""

    def _check_known(self) -> None:
        """Serve no further request of a host that is none of the fleet's any more, or that showed
        a certificate of a former authority.
        """
        known = (self._state.table, self._authorities())
        if known == self._known:
            return
        self._known = known
        for one in list(self.sockets):
            if one.peer:
                why = self._stranger(one.peer, one)
                if why:
                    one.refuse(why)

    def opened(self, socket: OwnerSocket) -> None:
        """Begin to tell the load of this host on a connection."""
        self.sockets.add(socket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def lost(self, socket: OwnerSocket) -> None:
        """Forget a connection that has ended."""
        self.sockets.discard(socket)
        self._gone()

    def _tell(self) -> None:
        self._timer = None
        now = time.monotonic()
        try:
            self._check_known()
            told = encode(counts_of(self._state, now))
            asked = Counter[str]()
            for one in self.sockets:
                asked[one.peer] += one.in_flight()
            for one in list(self.sockets):
                one.elsewhere = asked[one.peer] - one.in_flight()
                one.sweep(now)
                one.tell(told, now)
            self._tell_lately()
        except Exception:
            _logger.exception("peers could not be told the load of this host")
        if self.sockets and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def _tell_lately(self) -> None:
        for name, model in self._state.models.items():
            news = model.affinity.take_news()
            if news:
                told = encode(LatelyPlaced(name, news))
                for one in list(self.sockets):
                    one.tell_lately(told)


def counts_of(state: ProxyState, now: float) -> Counts:
    """Return the load of the models that have replicas here."""
    return {name: _count(model, now) for name, model in state.models.items() if model.replicas}


def _count(model: LiveModel, now: float) -> ModelCounts:
    slots = model.slots
    slow = slots.slowness.factors(now)
    elsewhere, sequences = slots.places.waiting_elsewhere()
    model.refresh()
    return ModelCounts(
        [
            ReplicaCounts(
                replica.replica_id,
                replica.sequences,
                effective_limit(replica.max_sequences, slow.get(replica.replica_id, 1.0)),
                replica.kv_tokens,
                replica.kv_cache_tokens,
                replica.draining,
                replica.doubt >= Trust.REFUSED,
                replica.route.max_model_len,
                replica.doubt,
            )
            for replica in model.replicas.values()
        ],
        len(slots.queue) + elsewhere,
        slots.queue.sequences + sequences,
        slots.service.seconds,
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
