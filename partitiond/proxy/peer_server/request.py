"""Serves one request of another host's client on the replicas of this host.

The entry has checked, admitted and charged it. This host owns the replicas, so it has the last word
on where and when the request runs: it queues, retries and quarantines it like its own.
"""

import logging
import math
import time

from partitiond.core.dispatch.admission import Cost, refuse_without_replica
from partitiond.core.dispatch.affinity import DIGEST_BYTES, MAX_BLOCKS
from partitiond.core.dispatch.host_affinity import split_digests
from partitiond.core.dispatch.places import RequestOwner
from partitiond.core.dispatch.routing import ModelAvailability, RouteKind
from partitiond.proxy.dispatch.flights import HOP_SECONDS
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.attempt import timed_out
from partitiond.proxy.edge.exchange import Exchange, Sender
from partitiond.proxy.edge.incoming import SMALL_BODY_BYTES
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.peer_server.answer import PeerAnswer
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import Open, PlacedAt, encode
from partitiond.proxy.peers.socket import PeerSocket
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, from_failure
from partitiond.proxy.request.parts import ParsedRequest, Size
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.record import Record

_logger = logging.getLogger("partitiond.proxy")


class PeerClientSide:
    """The connection that a peer's requests come on; `OwnerSocket` is the only kind."""

    socket: PeerSocket

    def request_over(self, number: int) -> None:
        """Forget a request that has ended."""
        raise NotImplementedError


class PeerRequest(Sender):
    """One request of another host's client.

    Raises:
        ValueError: its digests are none.

    Attributes:
        number: on its connection.
        exchange: serves it, once its body is complete.
        received_bytes: of its body, so far.
        received_at: when the last of them came, monotonic seconds.
        began_at: when it was asked.
        body_bytes: of its body as a whole.
    """

    of_peer = True
    later_seconds = HOP_SECONDS
    stall_seconds = math.inf  # by its own limit, the entry gives its client up

    def __init__(
        self, client: PeerClientSide, state: ProxyState, route: DataRoute, number: int, asked: Open
    ) -> None:
        self._state = state
        self.route = route
        self.answer = PeerAnswer(client.socket, number, self._was_sent)
        self.record = Record(route.path, asked.request_id)
        self.number = number
        self.exchange: Exchange | None = None
        self.is_complete = False
        self._client = client
        self._asked = asked
        self._parts: list[bytes] = []
        self.received_bytes = 0
        self.body_bytes = asked.body_bytes
        self.began_at = self.received_at = time.monotonic()
        self._client_paused = False
        self._socket_paused = client.socket.write_paused
        self.record.client = client.socket.peer
        self._blocks = tuple(split_digests(asked.blocks, MAX_BLOCKS))
        if len(asked.session) not in {0, DIGEST_BYTES}:
            raise ValueError("it sent what is no digest of a session")
        self._deadline = time.monotonic() + min(
            state.options.total_timeout_seconds, max(0.0, asked.total_seconds)
        )

    def received(self, data: bytes) -> None:
        """Take a part of the body. Raises ValueError if the body is longer than was said."""
        if self.is_complete:
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
            body = b"".join(self._parts)
            self._parts = []
            self.is_complete = True
            try:
                self._start(body)
            except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
                self.crashed()

    def _start(self, body: bytes) -> None:
        """Admit the request, and find it a replica."""
        state, asked, record = self._state, self._asked, self.record
        model = state.models.get(asked.model)
        if state.draining:
            self.refuse(errors.SHUTTING_DOWN)
            return
        if model is None:  # the entry knows it: the next table, or the last one, has it
            unknown = refuse_without_replica(asked.model, ModelAvailability.UNAVAILABLE, 1.0)
            self.refuse(errors.from_rejected(unknown))
            return
        request = ParsedRequest(
            asked.model, asked.stream, True, None, asked.sequences, Size(1, asked.prompt_bytes), ""
        )
        # A key that is none is nobody's: a host that invents keys has one turn in the queue.
        record.key_id = asked.key if asked.key in state.keys.ids else ""
        wait = model.route.max_wait_seconds if asked.wait_seconds is None else asked.wait_seconds
        # Only what needs no place is free, whatever the entry says.
        least = 0 if self.route.kind is RouteKind.TOKENIZE else 1
        sequences = max(least, min(asked.sequences, state.options.max_sequences))
        cost = Cost(
            sequences, asked.kv_tokens, max(1, sequences), asked.prompt_tokens,
            asked.output_tokens, asked.output_limit, model.max_model_len, asked.interval,
        )  # fmt: skip
        exchange = self.exchange = Exchange(
            state, self, model, request, body, cost=cost, now=time.monotonic()
        )
        exchange.traced, exchange.load_line = asked.traced, asked.load
        exchange.deadline = self._deadline
        exchange.paused = self._client_paused or self._socket_paused
        flight = exchange.flight
        flight.max_wait_seconds = wait
        flight.share = RequestOwner(record.key_id, asked.weight, asked.priority)
        flight.stream = asked.stream
        flight.prefer = asked.prefer
        flight.tried = frozenset(asked.tried)
        flight.attempts = asked.attempts
        flight.session = asked.session
        flight.blocks = self._blocks
        state.start_sweeping()
        exchange.begin(again=asked.again)

    def refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        self.answer.error(error)
        self.ended()

    # Calls of the connection

    def client_gone(self) -> None:
        """End the request because nobody waits for it any more."""
        if self.exchange is not None:
            self.exchange.client_gone()
        else:
            self.ended()

    def crashed(self) -> None:
        """Log a bug of ours and end the request, lest it hang; call it inside `except`."""
        if self.exchange is not None:
            self.exchange.crashed()
        else:
            _logger.exception("request %s failed inside the proxy", self.record.request_id)
            self.refuse(errors.INTERNAL)

    def pause_for(self, *, client: bool | None = None, socket: bool | None = None) -> None:
        """Pause or resume the answer: the entry's client, or the connection, does not take it."""
        if client is not None:
            self._client_paused = client
        if socket is not None:
            self._socket_paused = socket
        paused, exchange = self._client_paused or self._socket_paused, self.exchange
        if exchange is not None and paused != exchange.paused:
            exchange.pause() if paused else exchange.resume()

    # Calls of the exchange

    def attempt_begins(self, replica_id: str, attempts: int) -> None:
        """Tell the entry which replica has the request."""
        self._client.socket.send(frames.PLACED, self.number, encode(PlacedAt(replica_id, attempts)))

    def ended(self) -> None:
        """Forget the request; an entry that is there, and has no end yet, hears of one."""
        self.is_complete = True
        self._parts = []
        self._state.release_body(self)
        if self.exchange is not None and not self.answer.ended:
            gone = self.record.outcome == "client_gone"  # or, by its deadline, it took nothing
            self.answer.error(from_failure(timed_out("total_timeout")) if gone else errors.INTERNAL)
        self.exchange = None  # break the reference cycle
        self._client.request_over(self.number)

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count the work of the replica, and whom it was for; the entry counts the request."""
        record, exchange = self.record, self.exchange
        assert exchange is not None, "it was begun"
        flight = exchange.flight
        if flight.cost.sequences:
            use = self._state.metrics.model(record.model).use_of(record.key_id)
            use.engine_seconds += flight.engine_seconds
            if record.outcome == "ok" and replica is not None:
                record.count_replica(replica, seconds, flight)
        record.write(self._state.log, seconds, event="peer_request")

    def _was_sent(self) -> bool:
        exchange = self.exchange
        return exchange is not None and exchange.flight.attempts > self._asked.attempts
