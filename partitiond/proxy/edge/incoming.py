"""Reads one request of a client, then refuses it or admits it as an `Exchange`.

What the head decides is decided before the body is read. A refused request is answered once its
body has been read and dropped: closing with unread bytes would reset the connection, and the client
would see the reset instead of the answer. If the body is beyond a bound, the answer is sent at
once, and further bytes are dropped for a moment before the connection is closed.
"""

import math
import time
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected
from partitiond.core.dispatch.routing import RouteKind
from partitiond.core.units import KIB
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.answer import Answer, ClientSide
from partitiond.proxy.edge.exchange import Exchange, Sender
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.host_search import HostSearch
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.keys.accounts import Receipt
from partitiond.proxy.keys.auth import ANYONE, Caller
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, from_rejected
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import DataRoute, fitted, parse_request
from partitiond.proxy.request.scan import ScannedBody
from partitiond.proxy.telemetry.record import Record
from partitiond.proxy.telemetry.tracing import place_in_trace

DROPPED_BODIES: Final = 4
"""A refused body is read and dropped up to this many times the allowed size. Chosen."""
SMALL_BODY_BYTES: Final = 16 * KIB
"""Smaller bodies do not count against the total. Most prompts are smaller, so large bodies cannot
keep them out. With 10,000 connections small bodies take 160 MiB at most. Chosen."""
DRAINING_SECONDS: Final = 0.5
"""Time for a refused body during a shutdown: enough for a body that is already being sent."""


class IncomingRequest(Sender):
    """One request of a client, from its head to its record.

    Attributes:
        awaits_continue: its body comes only after `100 Continue`.
        is_over: it was refused, or its client left, before it was admitted.
    """

    def __init__(
        self, client: ClientSide, route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None, awaits_continue: bool = False,
    ) -> None:  # fmt: skip
        state = self._state = client.state
        request_id = head.request_id()
        self.route = route
        self.answer = Answer(
            client, route.dialect, request_id, keep_alive=keep_alive, chunked=chunked
        )
        self.record = Record(route.path, request_id)
        self.record.client = client.address
        if state.cors is not None:
            self.answer.extra = state.cors.lines(head.origin)
        self.stall_seconds = state.options.client_timeout_seconds
        self.client = client
        self.head = head
        self.exchange: Exchange | None = None
        self.awaits_continue = awaits_continue
        self.is_over = False
        self._known = known
        self._deadline = math.inf
        self._body = ScannedBody()
        self._size = 0
        self._caller: Caller = ANYONE
        self._receipt: Receipt | None = None
        """For the request's beginning, until it is admitted and its exchange has it."""
        self._refusal: ApiError | None = None

    # Reading

    @property
    def is_reading(self) -> bool:
        """Whether its body is read, and nothing has refused it so far."""
        return self.exchange is None and self._refusal is None and not self.is_over

    def begin(self) -> None:
        """Check the head, and refuse if that can be decided before the body is read."""
        refusal = self._check_head()
        if refusal is not None:
            self._refuse_unread(refusal)

    def _check_head(self) -> ApiError | None:
        state, known = self._state, self._known
        if state.draining:
            return errors.SHUTTING_DOWN
        if state.table.version == 0:
            return errors.NO_TABLE  # so it is not known either whether keys are required
        ring = state.keys
        caller = ring.identify(*self.head.keys()) if known is None else known.caller(ring)
        if isinstance(caller, ApiError):
            return caller
        self._caller = caller
        self.record.key_id = caller.key_id
        begun = state.accounts.begin(caller.key_id)
        if isinstance(begun, Rejected):
            return from_rejected(begun)
        self._receipt = begun
        if not caller.may_call(self.route.kind):
            return errors.route_not_allowed(self.route.kind.value)
        return None if known is not None else self.head.check(state.options.max_body_bytes)

    def received(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.is_over:
            return
        self.awaits_continue = False
        self._size += len(data)
        most = self._state.options.max_body_bytes
        if self._refusal is not None:
            if self._size > DROPPED_BODIES * most:
                self._refuse_and_linger(self._refusal)
            return
        self._body.add(data)
        if self._size > most:
            self._refuse_unread(errors.body_too_large(most))
        elif self._size > SMALL_BODY_BYTES and not self.hold_body(self._size):
            self._refuse_unread(errors.BODIES_FULL)

    def received_all(self) -> None:
        """Take the end of the body: start the request, or refuse it."""
        if self._refusal is not None:
            self.refuse(self._refusal)
        elif not self.is_over:
            self._admit(self._body.take())

    def body_is_broken(self, error: ApiError) -> None:
        """Refuse a body without a recognisable end."""
        self._refuse_and_linger(self._refusal or error)

    def await_body(self, now: float) -> None:
        """Start the time limit for the rest of the body."""
        if self._deadline == math.inf:
            self._deadline = now + self._state.options.client_timeout_seconds

    def sweep(self, now: float) -> None:
        """Check whether the body took too long."""
        if now > self._deadline:
            self._refuse_and_linger(self._refusal or errors.BODY_TOO_SLOW)

    def shut_down(self) -> None:
        """Refuse the request if its body is incomplete, because the proxy shuts down."""
        self._drop_body(self._refusal or errors.SHUTTING_DOWN)
        self._deadline = min(self._deadline, time.monotonic() + DRAINING_SECONDS)

    def drop(self) -> None:
        """Forget a request that is not served yet: its client has left."""
        self.is_over = True
        self._forget()

    # Refusing

    def _drop_body(self, refusal: ApiError) -> None:
        self._refusal = refusal
        self._body = ScannedBody()
        self.release_body()

    def _refuse_unread(self, refusal: ApiError) -> None:
        """Refuse a request whose body was not read; see the module."""
        self._drop_body(refusal)
        if self._state.draining:
            self._deadline = time.monotonic() + DRAINING_SECONDS
        limit = DROPPED_BODIES * self._state.options.max_body_bytes
        if self.awaits_continue or self.head.body_bytes() > limit:
            self._refuse_and_linger(refusal)  # the body comes only on request, or not in time

    def _refuse_and_linger(self, refusal: ApiError) -> None:
        if self.is_over:
            return
        self.answer.keep_alive = False
        self.client.linger()
        self.refuse(refusal)

    def refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        if self.is_over:  # by a bug of ours: it has its answer
            self._forget()
            self.abort()
            return
        self.is_over = True
        self._state.metrics.refusals[error.code or str(error.status)] += 1
        self.answer.error(error)
        record = self.record
        record.outcome, record.error = "refused", error.code or ""
        record.status = self.answer.status
        record.write(self._state.log, 0.0)
        self.ended()

    def _forget(self) -> None:
        self.release_body()
        self._state.reading.discard(self)
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, 0.0)

    # Admission

    def _admit(self, body: bytes) -> None:
        """Parse the complete request, admit it, and find it a replica."""
        read = self._read(body)
        if isinstance(read, ApiError):
            self.refuse(read)
            return
        request, model, body = read
        state, receipt = self._state, self._receipt
        assert receipt is not None, "it has begun"
        cost = Cost(0, len(body))
        if request.sequences:
            cost = model.estimate(request, self._caller.key_id)
        refused = state.accounts.reserve(receipt, cost.tokens, model.slots.service.value)
        if refused is not None:
            self.refuse(from_rejected(refused))
            return
        exchange = Exchange(state, self, model, request, body, cost=cost, now=time.monotonic())
        exchange.receipt, self._receipt = receipt, None
        self.exchange = exchange
        self._begin(exchange)

    def _read(self, body: bytes) -> tuple[ParsedRequest, LiveModel, bytes] | ApiError:
        """Return the request, its model and the body for the engine, or what is wrong with it."""
        options, route = self._state.options, self.route
        request = self._body.refusal or parse_request(body, route.measure, options)
        if isinstance(request, ApiError):
            return request
        model = self._state.find_model(request.model)
        if model is None or not self._caller.may_use(model.route.name):
            return errors.unknown_model(request.model)
        limits = [each for each in (model.limits, self._caller.limits) if each is not None]
        found = fitted(body, request, model.route, route, options=options, limits=limits)
        return found if isinstance(found, ApiError) else (found[0], model, found[1])

    def _begin(self, exchange: Exchange) -> None:
        """Begin to serve the request, which is in flight from now on."""
        state, head, live, model = self._state, self.head, exchange.live, exchange.model
        if state.options.traces_endpoint:
            placed = place_in_trace(head.traceparent, state.options.traces_ratio)
            self.record.trace_id, exchange.traced = placed
        longest = head.max_wait_seconds()
        if longest is not None:
            live.max_wait_seconds = longest
        live.share = self._caller.share
        live.stream = exchange.request.stream
        # The client may not yet have read the answer to its previous request.
        exchange.paused = self.client.write_paused
        if self.route.kind is RouteKind.GENERATE and (
            len(model.replicas) + state.peers.replicas(model) > 1
        ):
            model.prefer_replicas(live, exchange.body)
        if state.peers:
            exchange.elsewhere = HostSearch(state, exchange)
        if live.cost.sequences:
            state.metrics.model(model.route.name).demand.arrived += 1
        exchange.begin()

    # Calls of the exchange

    def waits(self) -> None:
        """Send the client a sign of life."""
        self.answer.promise()

    def answer_begins(self) -> None:
        """Add to the answer the headers that name the replica, if the client may see them."""
        wanted = self._state.options.debug_headers
        if wanted == "never" or (wanted == "asked" and self.head.debug != b"1"):
            return
        record = self.record
        queued = (record.queue_seconds or 0.0) * 1000
        total = (time.monotonic() - record.started_at) * 1000
        self.answer.extra += (
            f"x-partitiond-replica: {record.replica_id}\r\n"
            f"x-partitiond-attempts: {record.attempts}\r\n"
            f"x-partitiond-queue-ms: {queued:.3f}\r\n"
            f"x-partitiond-first-byte-ms: {total:.3f}\r\n"
        ).encode()

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count and log the request."""
        state, record, exchange = self._state, self.record, self.exchange
        assert exchange is not None, "it was admitted"
        record.count(state.metrics, seconds, exchange.live, replica)
        record.write(state.log, seconds)

    def ended(self) -> None:
        """Go on with the client's next request."""
        self.is_over = True
        self.exchange = None  # break the reference cycle
        self._forget()
        self.client.request_over(self)
