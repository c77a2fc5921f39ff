"""Carries one request to another host, and its answer back.

The request is one of HTTP/1.1 to a route of engines, with a header that tells what its entry knows
of it (`messages.Open`). Its owner answers with 102 while the request waits for a replica that
starts, with 103 once it has a place on one (`messages.PlacedAt`), with 102 while the engine holds
its output back, then as the engine does. Why
there is no answer, or no further one, is in a header or a trailer (`messages.Failed`); the entry
alone sends the request to another replica. Who ends the connection takes the request back.
"""

import asyncio
import logging
import time
from typing import Final

from partitiond.core.dispatch.fleet import OWN_HOST
from partitiond.core.dispatch.host_moves import MovableRequest
from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.live_requests import HOP_SECONDS, AnyReplica, LiveRequest
from partitiond.proxy.engine.framing import HOP, FramingError, Head
from partitiond.proxy.engine.upstream import Receiver, UpstreamConnection
from partitiond.proxy.peers.messages import (
    PROTOCOL,
    Failed,
    Open,
    PlacedAt,
    Proofs,
    encode,
    read_failed,
    read_placed,
)
from partitiond.proxy.peers.pool import PeerConnection, PeerPool
from partitiond.proxy.request.errors import FAILURE_STATUS, AttemptError
from partitiond.proxy.request.requests import DataRoute

LOST: Final = Failed(
    502, "upstream_reset", "The host of the model's engine cannot be reached any more."
)
"""What a request hears whose connection to its owner ended."""
SILENT: Final = Failed(429, "queue_timeout", "No slot came free in time.", 1, refused=True)
"""What a request hears whose owner neither starts nor refuses it."""
NONSENSE: Final = Failed(
    502, "upstream_bad_response", "The host of the model's engine sent what is no answer."
)
MAX_PROVED: Final = 64
"""Most failures of one host that are remembered so. Chosen."""
UNREACHED: Final = "upstream_connect"
"""What an owner says on whose replica nobody listens."""
_KIND: Final = "upstream_"

_logger = logging.getLogger("partitiond.proxy")


class RemoteRequest(MovableRequest[LiveRequest]):
    """A request of this host's client that another host may serve; `HostSearch` is the only kind.

    Attributes:
        model: that it asks for.
        route: that its client asked.
        longest: that it may wait for a place, in seconds.
        latest: until when it may wait, at all hosts together, monotonic seconds; 0 if it begins to
            wait next.
        until: end of the wait at no host, monotonic seconds.
        lost: hosts whose connection ended while it waited for a place there.
        told: the last refusal of a host.
    """

    __slots__ = ("latest", "longest", "lost", "model", "route", "told", "until")

    def __init__(
        self, live: LiveRequest, model: LiveModel, route: DataRoute, longest: float
    ) -> None:
        super().__init__(live, time.monotonic(), OWN_HOST)
        self.model = model
        self.route = route
        self.longest = longest
        self.latest = 0.0
        self.until = 0.0
        self.lost: frozenset[str] = frozenset()
        self.told: Failed | None = None

    # Calls of the exchange

    def place(self, *, again: bool) -> None:
        """Find a replica, here or at another host, or wait for one, or end with a refusal."""
        raise NotImplementedError

    def has_another(self) -> bool:
        """Whether another host has a replica that has not failed the request yet."""
        raise NotImplementedError

    def placed(self) -> None:
        """Note that the request has a place."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Take the request back from a host that neither starts nor refuses it."""
        raise NotImplementedError

    def leave(self) -> None:
        """Give back the place where the request waits; harmless if it waits nowhere."""
        raise NotImplementedError

    # Calls of the peers

    def ask(self, replica_id: str) -> tuple[Open, bytes]:
        """Return what to send, with the replica where it should start (or empty)."""
        raise NotImplementedError

    def go(self, peer: PeerLoads | None, replica_id: str) -> None:
        """Leave the place where it waits, and go to a peer, or to this host (None)."""
        raise NotImplementedError

    def look_again(self) -> None:
        """Look for a host again: it waits at none."""
        raise NotImplementedError

    def on_bug(self) -> None:
        """End after a bug of ours; called inside `except`."""
        raise NotImplementedError

    # Calls of the hop

    def hop_placed(self, hop: "Hop") -> None:
        """Begin: the request has a place on a replica there."""
        raise NotImplementedError

    def hop_waits(self) -> None:
        """Note that the request waits for a replica there that starts."""
        raise NotImplementedError

    def hop_failed(self, failed: Failed, *, sent: bool) -> None:
        """Go on elsewhere, or end: the owner gives no answer.

        Args:
            sent: the request had a place on a replica; else it was refused, or never arrived.
        """
        raise NotImplementedError


def request_of(host: str, path: str, asked: Open, body: bytes) -> bytes:
    """Return the bytes of a request to a peer.

    Args:
        host: name of the entry's host.
        path: of the route.
    """
    return b"POST %b HTTP/1.1\r\n%b%b: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(), head_lines(host), HOP, encode(asked), len(body), body,
    )  # fmt: skip


def head_lines(host: str) -> bytes:
    """Return the headers that say who asks, in every request to a peer."""
    return b"host: peer\r\nx-partitiond-host: %b\r\nx-partitiond-protocol: %d\r\n" % (
        host.encode(), PROTOCOL,
    )  # fmt: skip


class Hop(AnyReplica):
    """One request at another host, and the replica that runs it there, once there is one.

    Attributes:
        loads: that it is counted in.
        is_placed: it has a place on a replica.
        placed: where, as its owner tells.
        is_lost: its connection ended before it.

    Args:
        request: what is sent.
        running: holds it until it has left.
        proved: failures that the request tells of (`Open.proved`).
    """

    later_seconds = HOP_SECONDS

    def __init__(
        self,
        owner: RemoteRequest,
        pool: PeerPool,
        loads: PeerLoads,
        request: bytes,
        running: "set[Hop]",
        *,
        proved: Proofs = (),
    ) -> None:
        super().__init__("")
        self.host = loads.host
        self.pool = pool
        self.loads = loads
        self.connection: PeerConnection | None = None
        self.is_placed = False
        self.placed = PlacedAt("")
        self.is_lost = False
        self._owner = owner
        self._request = request
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._attempt: Receiver | None = None
        self._head: Head | None = None
        self._is_over = False
        self._has_left = False
        self._running = running
        self._proved = proved
        self._failure = 0
        running.add(self)

    # Calls of the request

    def start(self) -> None:
        """Send the request on an open connection, or open one."""
        connection = self.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            loop = asyncio.get_running_loop()
            self._connecting = loop.create_task(self.pool.connect())
            self._connecting.add_done_callback(self._connected)

    def left(self, *, refused: bool = False) -> None:
        """Count the request as gone from there; harmless if it is."""
        if self._has_left:
            return
        self._has_left = True
        self._attempt = None
        self._running.discard(self)
        if self._request:  # it was never sent: another tells what it was to tell
            self._prove(self._proved)
        if refused:
            self.loads.refused(self)
        else:
            self.loads.ended(self)

    def cancel(self) -> None:
        """Take the request back."""
        self._is_over = True
        self.left()
        self._disconnect()

    def lost(self) -> None:
        """Fail because its owner is silent."""
        self._disconnect()
        try:
            self._lose()
        except Exception:  # noqa: BLE001 -- logged by whose request it is; others are ended, too
            self.on_bug()

    def _disconnect(self) -> None:
        connecting, self._connecting = self._connecting, None
        connection, self.connection = self.connection, None
        if connecting is not None:
            connecting.cancel()
        if connection is not None:
            connection.close()

    def _connected(self, task: "asyncio.Task[UpstreamConnection]") -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            connection = task.result()
            assert isinstance(connection, PeerConnection)
            if self._is_over:  # taken back while this call was on its way
                connection.close()
            else:
                self._send(connection)
            return
        if not isinstance(error, AttemptError):
            _logger.error("connecting to a peer failed inside the proxy", exc_info=error)
        self.lost()

    def _send(self, connection: PeerConnection) -> None:
        self.connection = connection
        request, self._request = self._request, b""  # which has a second copy of the body
        connection.send(request, self)

    # Calls of the connection

    def received_note(self, head: Head) -> None:
        """Take the word that the request has a place, waits for a replica that starts, or is worked
        on without showing it."""
        if not head.hop:
            if self._attempt is not None:
                self._attempt.received_note(head)
            elif not (self.is_placed or self._is_over):
                self._owner.hop_waits()
            return
        try:
            placed = read_placed(head.hop)
        except ValueError as error:
            raise FramingError(str(error)) from error
        self.replica_id = placed.replica_id
        self.placed = placed
        if not self.is_placed:
            self.is_placed = True
            self._owner.hop_placed(self)

    def received_head(self, head: Head) -> None:
        """Take the head of the answer, or of a failure."""
        self._head = head
        if head.hop:
            return  # a failure, which counts once it is whole
        if self._attempt is None:
            raise FramingError("it answers a request that has no place")
        self._attempt.received_head(head)

    def received_body(self, data: bytes) -> None:
        """Pass a piece of the answer on."""
        if self._attempt is not None and self._head is not None and not self._head.hop:
            self._attempt.received_body(data)

    def received_end(self) -> None:
        """Pass the end on, or fail."""
        told = b"" if self._head is None else self._head.hop
        if not told:
            if self._attempt is not None:
                self._attempt.received_end()
            return
        try:
            failed = read_failed(told)
        except ValueError:
            failed = NONSENSE
            self._disconnect()
        connection, self.connection = self.connection, None
        if connection is not None and self._attempt is None:
            self.pool.release(connection, time.monotonic())
        self._fail(failed)

    def received_failure(self, failure: AttemptError) -> None:
        """Fail because the connection has ended, or the answer made no sense."""
        if failure.kind == "bad_response":
            self._fail(NONSENSE)
        else:
            self._lose()

    def on_bug(self) -> None:
        """End the request after a bug of ours, lest it hang; call it inside `except`."""
        attempt = self._attempt
        self._is_over = True
        if attempt is not None:
            attempt.on_bug()
        else:
            self._owner.on_bug()

    def _lose(self) -> None:
        self.is_lost = True
        self._fail(LOST)

    def _fail(self, failed: Failed) -> None:
        """End without an answer, or without the rest of it."""
        if self._is_over:
            return
        self._is_over = True
        self._failure = failed.failure
        attempt = self._attempt
        self._owner.hop_failed(failed, sent=attempt is not None)
        if attempt is not None:
            kind = failed.code.removeprefix(_KIND)
            attempt.received_failure(
                AttemptError(kind if kind in FAILURE_STATUS else "engine_error", failed.message)
            )

    # Calls of the attempt, as of a replica; its owner judges it

    def answer_to(self, receiver: Receiver) -> UpstreamConnection | None:
        """Pass the answer on from now on."""
        self._attempt = receiver
        return self.connection

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """Keep the connection for the next request."""
        self.connection = None
        self.pool.release(connection, now)

    def failed(self, source: str) -> int:  # noqa: ARG002 -- as of any replica
        """Return the number that its owner gave the failure."""
        return self._failure

    def served_elsewhere(self, number: int) -> None:
        """Note that another replica has answered the request; the next one tells the owner."""
        if number:
            self._prove(((self.replica_id, number),))

    def _prove(self, failures: Proofs) -> None:
        free = MAX_PROVED - len(self.pool.proved)
        self.pool.proved.update(failures[:free])

    def remove(self, live: LiveRequest) -> None:
        """Forget the request; the owner counts the time that it had the engine."""
        if live.replica is self:
            live.replica = None
            self.left()

    def connect_failed(self) -> bool:
        """Return True: the owner did not reach the replica, so nothing was sent."""
        return True

    @property
    def counted_as(self) -> str:
        """The owner's name if it was lost, since only the owner's word names the replica; else
        empty, since the owner counts its engines' failures.
        """
        return self.host if self.is_lost else ""
