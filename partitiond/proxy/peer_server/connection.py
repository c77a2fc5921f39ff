"""Takes the requests of one other host's proxy, on one connection."""

import asyncio
import logging
import time
from typing import Final, Protocol

from partitiond.core.units import KIB, MIB
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.peer_server.request import PeerClientSide, PeerRequest
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import Failed, Hello, encode, read_open
from partitiond.proxy.peers.socket import PeerSocket
from partitiond.proxy.request import errors
from partitiond.proxy.request.routes import BY_TARGET

DEAD_SECONDS: Final = 10.0
"""An entry that says nothing for so long is left, and its requests end. It says each second that it
is there. So is one that reads nothing of what waits for it. Chosen."""
MAX_REQUESTS: Final = 16_384
"""Most requests of one host. Its proxy has 10,000 connections of clients by default."""
MAX_UNREAD_BYTES: Final = 8 * MIB
"""While more than this waits for an entry that does not read, nothing is read from it: each request
would be one more answer that waits. Chosen."""
MAX_COMPLAINTS: Final = 64
"""Most names of which is remembered what was logged. Chosen."""
DEFAULTS_BYTES: Final = 4096
"""What an entry may add to a body beyond its model's defaults. Chosen."""
LEAST_BODY_RATE: Final = 256 * KIB
"""Bytes per second at which a body that its entry has as a whole must come. Chosen, far below what
any network between hosts carries."""

_logger = logging.getLogger("partitiond.proxy")


class OwnerSocket(PeerSocket):
    """The owner's end of a connection: reads requests, sends answers and counts.

    Attributes:
        was_opened: it has been a connection; before, its handshake runs.
        authorities: that the entry's certificate was checked by; empty without TLS.
        elsewhere: requests on the other connections of the same host, when they were last counted.
    """

    def __init__(
        self,
        own: Hello,
        state: ProxyState,
        server: "PeerConnections",
        authorities: frozenset[bytes] = frozenset(),
    ) -> None:
        super().__init__(own)
        self.authorities = authorities
        self._is_refused = False
        self._is_reading = True
        self.elsewhere = 0
        self._state = state
        self._server = server
        self._requests: dict[int, PeerRequest] = {}
        self._last_number = 0
        self.was_opened = False
        self.side = _Side(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are; from now on, the end of the connection is told."""
        self.was_opened = True
        self._server.opened(self)
        super().connection_made(transport)

    def greeted(self, hello: Hello) -> str:
        """Refuse a host that is none of the table's, and one that its certificate does not name."""
        refusal = self._server.refusal(hello, self)
        if not refusal:
            self._server.complaints.pop(hello.host, None)
        if not refusal and self._server.is_leaving:
            self.leave()  # it was accepted just before
        return refusal

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Take a frame. Raises ValueError if it makes no sense."""
        request = self._requests.get(number)
        if kind == frames.OPEN:
            self._open(number, payload)
        elif request is None:
            return  # it has ended, and the entry did not know it yet
        elif kind == frames.BODY:
            request.received(payload)
        elif kind == frames.CANCEL:
            self._requests.pop(number, None)
            request.client_gone()
        elif kind == frames.PAUSE:
            request.pause_for(client=True)
        elif kind == frames.RESUME:
            request.pause_for(client=False)

    def _open(self, number: int, payload: bytes) -> None:
        if self.write_paused and self._is_reading:
            self._read_on_later()
        size = int.from_bytes(payload[:4], "big")
        asked = read_open(payload[4 : 4 + size])
        if number <= self._last_number:
            raise ValueError("it used a number twice")
        self._last_number = number
        route = BY_TARGET.get(asked.path.encode())
        model = self._state.models.get(asked.model)
        added = DEFAULTS_BYTES + (0 if model is None else len(model.route.defaults_json))
        if route is None:
            self._refuse(number, "The owner knows no such route.")
        elif asked.body_bytes > self._state.options.max_body_bytes + added:
            self._refuse(number, "The owner takes no body of that size.")
        elif self._is_refused:
            self._refuse(number, "The owner takes no request of this host any more.")
        elif len(self._requests) + self.elsewhere >= MAX_REQUESTS:
            self._refuse(number, "The owner has as many requests of this host as it takes.")
        else:
            request = PeerRequest(self.side, self._state, route, number, asked)
            self._requests[number] = request
            request.received(payload[4 + size :])

    def _read_on_later(self) -> None:
        """Read no further requests while too much waits for an entry that does not read."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._is_reading = False
            transport.pause_reading()

    def _refuse(self, number: int, message: str) -> None:
        failed = Failed(503, "upstream_connect", message, 1, refused=True)
        self.send(frames.FAIL, number, encode(failed))

    def forget(self, number: int) -> None:
        """Forget a request that has ended."""
        self._requests.pop(number, None)

    def tell(self, counts: bytes, now: float) -> None:
        """Send the load of this host.

        Args:
            counts: an encoded `messages.Counts`.
            now: when they were made, monotonic seconds.
        """
        if not self.peer or self.write_paused:
            return
        incomplete = [n for n, request in self._requests.items() if not request.is_complete]
        last = min(incomplete) - 1 if incomplete else self._last_number
        when = int(now * 1e6)
        self.send(frames.COUNTS, 0, last.to_bytes(4, "big") + when.to_bytes(8, "big") + counts)

    def tell_lately(self, lately: bytes) -> None:
        """Send what was placed on this host's replicas lately.

        Args:
            lately: an encoded `messages.LatelyPlaced`.
        """
        if self.peer and not self.write_paused:
            self.send(frames.LATELY, 0, lately)

    def leave(self) -> None:
        """Take no further request."""
        self.send(frames.LEAVING, 0)

    def refuse(self, why: str) -> None:
        """Take no further request of an entry that is refused from now on; end once those that run
        have ended, which they do within their own limits.
        """
        if not self._is_refused:
            self._is_refused = True
            self.log_end(why)
            self.leave()

    def log_end(self, reason: str) -> None:
        """Log why the connection ends; a host that is refused at each try is one line."""
        complaints = self._server.complaints
        if complaints.get(self.called) == reason:
            return
        if len(complaints) >= MAX_COMPLAINTS:
            complaints.clear()
        complaints[self.called] = reason
        super().log_end(reason)

    def sweep(self, now: float) -> None:
        """Leave an entry that is gone, and requests whose bodies do not come."""
        if self._is_reading and now - self.heard_at > DEAD_SECONDS:
            self.close(f"has said nothing for {DEAD_SECONDS:g} s")
            return
        if self.unread_seconds(now) > DEAD_SECONDS:
            self.close(f"has read nothing for {DEAD_SECONDS:g} s")
            return
        if self._is_refused and not self._requests:
            self.finish()
            return
        if not self._is_reading:
            return  # what does not come may wait for us
        longest = self._state.options.client_timeout_seconds
        for request in list(self._requests.values()):
            if request.is_complete:
                continue
            if now - request.received_at > longest:
                self.close("does not send the rest of a request")
                return
            if now - request.began_at > longest + request.body_bytes / LEAST_BODY_RATE:
                request.refuse(errors.BODY_TOO_SLOW)

    def writing_paused(self, *, paused: bool) -> None:
        """Stop the engines' answers, because the entry does not read, or go on."""
        if not paused and not self._is_reading and self.transport is not None:
            self._is_reading = True
            self.heard_at = time.monotonic()
            for request in self._requests.values():
                request.received_at = self.heard_at
            self.transport.resume_reading()
        for request in list(self._requests.values()):
            request.pause_for(socket=paused)

    def gone(self) -> None:
        """End the requests, because nobody waits for them."""
        self._server.lost(self)
        requests, self._requests = list(self._requests.values()), {}
        for request in requests:
            try:
                request.client_gone()
            except Exception:  # noqa: BLE001 -- logged there; end all others
                request.crashed()

    def in_flight(self) -> int:
        """Return the number of requests on it."""
        return len(self._requests)


class _Side(PeerClientSide):
    """The connection as its requests see it."""

    def __init__(self, socket: OwnerSocket) -> None:
        self.socket = socket
        self._owner = socket

    def request_over(self, number: int) -> None:
        """Forget a request that has ended."""
        self._owner.forget(number)


class PeerConnections(Protocol):
    """All connections of peers; `PeerServer` is the only kind.

    Attributes:
        is_leaving: no further request is taken.
        complaints: what was logged of who was refused, by name.
    """

    is_leaving: bool
    complaints: dict[str, str]

    def refusal(self, hello: Hello, socket: OwnerSocket) -> str:
        """Return why a peer is refused, or empty."""
        ...

    def opened(self, socket: OwnerSocket) -> None:
        """Note a connection that is open."""
        ...

    def lost(self, socket: OwnerSocket) -> None:
        """Forget a connection that has ended."""
        ...
