"""Serves one request of another host's client on the replicas of this host.

The entry has checked, admitted and charged it. This host owns the replicas, so it has the last word
on where and when the request runs: it queues and quarantines it like its own. An attempt that fails
is told to the entry, which alone retries: two that did would retry twice the share of one.
"""

import time

from partitiond.core.dispatch.admission import EVERYBODY, Cost, refuse_without_replica
from partitiond.core.dispatch.affinity import ENDS, split_digests
from partitiond.core.dispatch.routing import ModelAvailability, RouteKind
from partitiond.proxy.dispatch.live_requests import HOP_SECONDS
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.answer import STATUS_LINES, Answer, ClientSide
from partitiond.proxy.edge.exchange import Exchange, Sender
from partitiond.proxy.edge.incoming import SMALL_BODY_BYTES
from partitiond.proxy.engine.framing import HOP, WORKS
from partitiond.proxy.peers.messages import MOST, Failed, Open, PlacedAt, encode
from partitiond.proxy.request import errors
from partitiond.proxy.request.dialects import Dialect
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.parts import ParsedRequest, Size
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.record import Record


class PeerAnswer(Answer):
    """An answer to the proxy of another host.

    Attributes:
        failure: number of the failure that ends it; 0 if there is none.
    """

    __slots__ = ("_is_placed", "failure")

    def __init__(self, client: ClientSide, dialect: Dialect) -> None:
        super().__init__(client, dialect, "", keep_alive=True, chunked=True)
        self._is_placed = False
        self.failure = 0

    def placed(self, at: PlacedAt) -> None:
        """Say that the request has a place on a replica."""
        self._is_placed = True
        self.write(b"HTTP/1.1 103 Early Hints\r\n%b: %b\r\n\r\n" % (HOP, encode(at)))

    def _head(self, status: int, headers: bytes) -> bytes:
        self.status = status
        return b"%b%b\r\n" % (STATUS_LINES[status], headers)

    def error(self, error: ApiError, opening: bytes = b"") -> None:  # noqa: ARG002 -- the entry's
        """Say why there is no answer, or no further one; the entry words it for its client."""
        if self.ended:
            return
        told = encode(
            Failed(
                error.status, error.code or "", error.message, error.retry_after_seconds,
                refused=not self._is_placed, failure=self.failure,
            )
        )  # fmt: skip
        self.ended = True
        if self.streaming:
            self.streaming = False
            self.write(b"0\r\n%b: %b\r\n\r\n" % (HOP, told))
        else:
            self.write(self._head(error.status, b"%b: %b\r\ncontent-length: 0\r\n" % (HOP, told)))


class PeerRequest(Sender):
    """One request of another host's client.

    Raises:
        ValueError: its digests are none.

    Attributes:
        is_complete: its body is, or it was refused.
    """

    later_seconds = HOP_SECONDS
    retries = False

    def __init__(
        self, client: ClientSide, peer: str, route: DataRoute, asked: Open, body_bytes: int
    ) -> None:
        state = self._state = client.state
        self.route = route
        self.answer = self._answer = PeerAnswer(client, route.dialect)
        self.record = Record(route.path, asked.request_id)
        self.stall_seconds = state.options.client_timeout_seconds
        self.exchange: Exchange | None = None
        self.is_complete = False
        self.client = client
        self._asked = asked
        self._parts: list[bytes] = []
        self._received_bytes = 0
        self._body_bytes = body_bytes
        self.record.client = peer
        # A key that is none is nobody's, and weights are this host's own: a liar has one turn.
        self._owner = state.keys.owners.get(asked.key, EVERYBODY)
        self.record.key_id = self._owner.key
        self._prefixes = tuple(split_digests(asked.blocks, len(ENDS)))
        self._deadline = time.monotonic() + min(
            state.options.total_timeout_seconds, max(0.0, asked.total_seconds)
        )

    def received(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.is_complete:
            return
        self._received_bytes += len(data)
        self._parts.append(data)
        is_whole = self._received_bytes == self._body_bytes
        counts = self._received_bytes > SMALL_BODY_BYTES or not is_whole
        if counts and not self.hold_body(self._received_bytes):
            self.refuse(errors.BODIES_FULL)

    def received_all(self) -> None:
        """Start: the body is complete."""
        if self.is_complete:
            return
        body = b"".join(self._parts)
        self._parts = []
        self.is_complete = True
        try:
            self._start(body)
        except Exception:  # noqa: BLE001 -- logged there; a bug must not look like a hang
            self.on_bug()

    def _start(self, body: bytes) -> None:
        """Admit the request, and find it a replica."""
        state, asked = self._state, self._asked
        for replica in state.replicas() if asked.proved else ():
            for replica_id, number in asked.proved:
                if replica.replica_id == replica_id:
                    replica.served_elsewhere(number)
        model = state.models.get(asked.model)
        if state.draining:
            self.refuse(errors.SHUTTING_DOWN)
            return
        if model is None:  # the entry knows it: the next table, or the last one, has it
            unknown = refuse_without_replica(asked.model, ModelAvailability.UNAVAILABLE, 1.0)
            self.refuse(errors.from_rejected(unknown))
            return
        request = ParsedRequest(
            asked.model, asked.stream, True, None, asked.sequences, Size(1, asked.prompt_bytes)
        )
        wait = model.route.max_wait_seconds if asked.wait_seconds is None else asked.wait_seconds
        sequences = max(1, min(asked.sequences, state.options.max_sequences))
        # No more than the model can hold, or a lie would close the replica and spoil its pace.
        most = sequences * model.max_model_len or MOST
        limit = asked.output_limit
        cost = Cost(
            sequences,
            min(asked.kv_tokens, most),
            prompts=sequences,
            prompt_tokens=min(asked.prompt_tokens, most),
            output_tokens=min(asked.output_tokens, most),
            output_limit=None if limit is None else min(limit, most),
            context=model.max_model_len,
        )
        if self.route.kind is RouteKind.TOKENIZE:  # what needs no slot is free, and nothing else
            cost = Cost(0, len(body))
        exchange = self.exchange = Exchange(
            state, self, model, request, body, cost=cost, now=time.monotonic()
        )
        exchange.traced = asked.traced
        exchange.deadline = self._deadline
        exchange.paused = self.client.write_paused
        live = exchange.live
        live.max_wait_seconds = wait
        live.share = self._owner
        live.stream = asked.stream
        live.prefer = asked.prefer
        live.tried = frozenset(asked.tried)
        live.prefixes = self._prefixes
        state.start_sweeping()
        exchange.begin(again=asked.again)

    def refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        self.answer.error(error)
        self.ended()

    def drop(self) -> None:
        """Forget a request that is not served yet: nobody waits for it."""
        self.ended()

    # Calls of the exchange

    def waits(self) -> None:
        """Let the entry, which has the client, show it a sign of life."""
        self.answer.write(STATUS_LINES[WORKS] + b"\r\n")

    def works(self) -> None:
        """As `waits`."""
        self.waits()

    def attempt_begins(self, replica_id: str) -> None:
        """Tell the entry which replica has the request, and what it does there."""
        exchange = self.exchange
        assert exchange is not None, "it was begun"
        speed = exchange.model.tokens_per_s(replica_id, "")
        self._answer.placed(PlacedAt(replica_id, exchange.live.takes.sequences, speed))

    def attempt_failed(self, number: int) -> None:
        """Tell the entry which failure it was, should another replica answer the request."""
        self._answer.failure = number

    def ended(self) -> None:
        """Go on with the entry's next request."""
        self.is_complete = True
        self._parts = []
        self.release_body()
        self.exchange = None  # break the reference cycle
        self.client.request_over(self)

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count the work of the replica; the entry counts the request."""
        record, exchange = self.record, self.exchange
        assert exchange is not None, "it was begun"
        live = exchange.live
        if live.cost.sequences and record.outcome == "ok" and replica is not None:
            record.count_replica(replica, seconds, live)
        record.write(self._state.log, seconds, event="peer_request")
