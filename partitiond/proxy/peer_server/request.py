"""Serves one request of another host's client on the replicas of this host.

The entry has checked, admitted and charged it. This host owns the replicas, so it has the last word
on where and when the request runs: it queues, retries and quarantines it like its own.
"""

import contextlib
import time

from partitiond.core.dispatch.admission import Cost, refuse_without_replica
from partitiond.core.dispatch.affinity import DIGEST_BYTES, MAX_BLOCKS
from partitiond.core.dispatch.host_affinity import split_digests
from partitiond.core.dispatch.places import RequestOwner
from partitiond.core.dispatch.routing import ModelAvailability, RouteKind
from partitiond.proxy.dispatch.flights import HOP_SECONDS, Flight, FlightTarget
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.incoming import SMALL_BODY_BYTES
from partitiond.proxy.edge.serving import Phase, Serving
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.peer_server.answer import PeerAnswer
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import Open, PlacedAt, encode
from partitiond.proxy.peers.socket import PeerSocket
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.parts import ParsedRequest, Size
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.record import Record


class PeerClientSide:
    """The connection that a peer's requests come on; `OwnerSocket` is the only kind."""

    socket: PeerSocket

    def request_over(self, number: int) -> None:
        """Forget a request that has ended."""
        raise NotImplementedError


class PeerRequest(Serving):
    """One request of another host's client.

    Raises:
        ValueError: its digests are none.

    Attributes:
        number: on its connection.
        received_bytes: of its body, so far.
        received_at: when the last of them came, monotonic seconds.
        began_at: when it was asked.
        body_bytes: of its body as a whole.
    """

    of_peer = True
    client_later_seconds = HOP_SECONDS

    def __init__(
        self, client: PeerClientSide, state: ProxyState, route: DataRoute, number: int, asked: Open
    ) -> None:
        answer = PeerAnswer(client.socket, number, self._was_sent)
        super().__init__(state, route, answer, Record(route.path, asked.request_id))
        self.number = number
        self._client = client
        self._asked = asked
        self._parts: list[bytes] = []
        self.received_bytes = 0
        self.body_bytes = asked.body_bytes
        self.began_at = self.received_at = time.monotonic()
        self._client_paused = False
        self._socket_paused = client.socket.write_paused
        self.paused = self._socket_paused
        self.record.client = client.socket.peer
        self._blocks = tuple(split_digests(asked.blocks, MAX_BLOCKS))
        if len(asked.session) not in {0, DIGEST_BYTES}:
            raise ValueError("it sent what is no digest of a session")
        self._deadline = time.monotonic() + min(
            state.options.total_timeout_seconds, max(0.0, asked.total_seconds)
        )

    def received(self, data: bytes) -> None:
        """Take a part of the body. Raises ValueError if the body is longer than was said."""
        if self.phase is not Phase.READING:
            return
        self.received_bytes += len(data)
        self.received_at = time.monotonic()
        self._parts.append(data)
        if self.received_bytes > self._asked.body_bytes:
            raise ValueError("it sent more of a body than it said")
        is_whole = self.received_bytes == self._asked.body_bytes
        counts = self.received_bytes > SMALL_BODY_BYTES or not is_whole
        if counts and not self._state.hold_body(self, self.received_bytes):
            self.refuse(errors.BODIES_FULL)
        elif is_whole:
            self.body = b"".join(self._parts)
            self._parts = []
            try:
                self._start()
            except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
                self.crashed()

    @property
    def is_complete(self) -> bool:
        """Whether all of its body has come."""
        return self.phase is not Phase.READING

    def _start(self) -> None:
        """Admit the request, and find it a replica."""
        state, asked, record = self._state, self._asked, self.record
        now = time.monotonic()
        model = state.models.get(asked.model)
        if state.draining:
            self.refuse(errors.SHUTTING_DOWN)
            return
        if model is None:  # the entry knows it: the next table, or the last one, has it
            unknown = refuse_without_replica(asked.model, ModelAvailability.UNAVAILABLE, 1.0)
            self.refuse(errors.from_rejected(unknown))
            return
        self.model = model
        self.request = ParsedRequest(
            asked.model, asked.stream, True, None, asked.sequences, Size(1, asked.prompt_bytes), ""
        )
        record.model, record.stream, record.started_at = model.route.name, asked.stream, now
        # A key that is none is nobody's: a host that invents keys has one turn in the queue.
        record.key_id = asked.key if asked.key in state.keys.ids else ""
        self.traced = asked.traced
        wait = model.route.max_wait_seconds if asked.wait_seconds is None else asked.wait_seconds
        # Only what needs no place is free, whatever the entry says.
        least = 0 if self.route.kind is RouteKind.TOKENIZE else 1
        sequences = max(least, min(asked.sequences, state.options.max_sequences))
        cost = Cost(
            sequences, asked.kv_tokens, max(1, sequences), asked.prompt_tokens,
            asked.output_tokens, asked.output_limit, model.max_model_len, asked.interval,
        )  # fmt: skip
        flight = self.flight = Flight(self, record.request_id, cost, now, wait)
        flight.share = RequestOwner(record.key_id, asked.weight, asked.priority)
        flight.stream = asked.stream
        flight.prefer = asked.prefer
        flight.tried = frozenset(asked.tried)
        flight.attempts = asked.attempts
        flight.session = asked.session
        flight.blocks = self._blocks
        state.took_off(self)
        state.start_sweeping()
        model.retries.count_request()
        if not self.is_quarantined(now):
            self.place(again=asked.again)

    def refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        self.phase = Phase.OVER
        self._parts = []
        self._state.release_body(self)
        self.answer.error(error)
        self._client.request_over(self.number)

    def drop(self) -> None:
        """Leave nothing of the request behind, and let the entry know that nothing will come."""
        super().drop()
        self._state.release_body(self)
        with contextlib.suppress(Exception):
            self.answer.error(errors.INTERNAL)
        self._client.request_over(self.number)

    def load_line(self) -> bytes:
        """Return the header that asks for the engine's load, as the entry had it."""
        return self._asked.load

    # Calls of the connection

    def client_gone(self) -> None:
        """End the request because nobody waits for it any more."""
        if self.phase is Phase.READING:
            self.phase = Phase.OVER
            self._parts = []
            self._state.release_body(self)
            self._client.request_over(self.number)
        else:
            super().client_gone()

    def pause_for(self, *, client: bool | None = None, socket: bool | None = None) -> None:
        """Pause or resume the answer: the entry's client, or the connection, does not take it."""
        if client is not None:
            self._client_paused = client
        if socket is not None:
            self._socket_paused = socket
        paused = self._client_paused or self._socket_paused
        if paused != self.paused:
            self.pause() if paused else self.resume()

    # Serving

    def placed(self, replica: FlightTarget) -> None:
        """Begin an attempt on the replica, and tell the entry."""
        attempts = self.flight.attempts - self.flight.unreached + 1
        self._client.socket.send(
            frames.PLACED, self.number, encode(PlacedAt(replica.replica_id, attempts))
        )
        super().placed(replica)

    def abort_client(self) -> None:
        """Leave the connection alone: other requests are on it. The entry ends its client's."""

    def add_debug_headers(self) -> None:
        """Leave them to the entry."""

    def answered(self) -> None:
        """Forget the request."""
        if not self.answer.ended and self.record.outcome == "client_gone":
            self.answer.error(errors.INTERNAL)  # the entry has left, or hears why it ended
        self._client.request_over(self.number)

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count the work of the replica, and whom it was for; the entry counts the request."""
        flight, record = self.flight, self.record
        if flight.cost.sequences:
            use = self._state.metrics.model(record.model).use_of(record.key_id)
            use.engine_seconds += flight.engine_seconds
            if record.outcome == "ok" and replica is not None:
                record.count_replica(replica, seconds, flight)
        record.write(self._state.log, seconds, event="peer_request")

    def shut_down(self) -> None:
        """End the request with an error, because the grace of the shutdown is over."""
        if self.phase is Phase.READING:
            self.refuse(errors.SHUTTING_DOWN)
        else:
            super().shut_down()

    def stop_reading(self, now: float) -> None:  # noqa: ARG002 -- as for clients
        """Refuse the request if its body is incomplete, because the proxy shuts down."""
        if self.phase is Phase.READING:
            self.refuse(errors.SHUTTING_DOWN)

    def _was_sent(self) -> bool:
        flight = getattr(self, "flight", None)
        return flight is not None and flight.attempts > self._asked.attempts
