"""Handles one request of a client, from its head to its record.

    reading -> (refusing) -> over
    reading -> waiting -> running -> over

`incoming` reads it, this module admits and charges it, `serving` answers it.
"""

import math
import time
from collections.abc import Callable

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import RouteKind
from partitiond.proxy.dispatch.estimates import estimates_of
from partitiond.proxy.dispatch.flights import Flight
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.incoming import Incoming, RequestClient
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.serving import Phase
from partitiond.proxy.keys.accounts import Receipt
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, from_rejected
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import (
    DataRoute,
    check_limits,
    engine_body,
    parse_request,
    with_defaults,
)
from partitiond.proxy.telemetry.tracing import Trace

__all__ = ["Exchange", "Phase"]


class Exchange(Incoming):
    """One request of a client (see the module)."""

    def __init__(
        self, client: RequestClient, route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None,
    ) -> None:  # fmt: skip
        super().__init__(client, route, head, keep_alive=keep_alive, chunked=chunked, known=known)
        self._receipt: Receipt | None = None
        self._trace: Trace | None = None

    def load_line(self) -> bytes:
        """Return the header that asks for the engine's load, if the client asks and may see it."""
        return b"" if self._state.options.debug_headers == "never" else self.head.load_line()

    # Bugs of ours

    def apologise(self) -> None:
        """End the request with an error after a bug of ours, if it has not ended."""
        if self.phase is Phase.OVER or self not in self._state.flights:
            self._give_receipt_back()
        super().apologise()

    def ways_out(self) -> list[Callable[[], object]]:
        """Return the clean-up actions, each independent of the others."""
        return [*super().ways_out(), self._give_receipt_back]

    def _give_receipt_back(self) -> None:
        """Settle with zero use (it is unknown), lest the key keep it in flight for ever."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, 0.0)

    # Admission

    def start(self) -> None:
        """Parse the complete request, admit it, and find it a replica."""
        state = self._state
        read = self._read()
        if isinstance(read, ApiError):
            self._refuse(read)
            return
        request, model = read
        caller = self._caller
        cost, self.estimate = estimates_of(request, model, caller.key_id)
        admitted = state.accounts.admit(caller.key_id, cost.kv_tokens, model.slots.service.seconds)
        if isinstance(admitted, Rejected):
            self._refuse(from_rejected(admitted))
            return
        self._receipt = admitted
        now = time.monotonic()
        self.request, self.model = request, model
        record = self.record
        record.model, record.stream, record.started_at = model.route.name, request.stream, now
        if state.tracer is not None:
            trace = self._trace = state.tracer.begin(self.head.traceparent)
            record.trace_id, self.traced = trace.trace_id, trace.header
        self._deadline = now + state.options.total_timeout_seconds
        longest = self.head.max_wait_seconds()
        flight = self.flight = Flight(
            self, record.request_id, cost, now, math.inf if longest is None else longest
        )
        flight.share = caller.share
        # The client may not yet have read the answer to its previous request.
        self.paused = self.client.flow.write_paused
        if len(model.replicas) > 1 and self.route.kind is RouteKind.GENERATE:
            session = self.head.session.decode("latin-1") or request.user
            model.attraction.attract(flight, session, self.body, now)
        state.took_off(self)
        model.retries.count_request()
        if cost.sequences:
            state.metrics.model(record.model).demand.arrived += 1
        if not self.is_quarantined(now):
            self.place(again=False)

    def _read(self) -> tuple[ParsedRequest, LiveModel] | ApiError:
        """Return the request and its model; set the body to the version for the engine."""
        state = self._state
        request = parse_request(self.body, self.route.measure, state.options)
        if isinstance(request, ApiError):
            return request
        model = state.find_model(request.model)
        if model is None or not self._caller.may_use(model.route.name):
            return errors.unknown_model(request.model)
        if model.route.defaults_json and self.route.kind is RouteKind.GENERATE:
            named = request.size.own_limit and request.size.max_tokens is not None
            self.body = with_defaults(self.body, model.route.defaults_json)
            request = parse_request(self.body, self.route.measure, state.options)
            if isinstance(request, ApiError):
                return request
            request.size.own_limit = named
        refusal = self._prepare(request, model)
        return (request, model) if refusal is None else refusal

    def _prepare(self, request: ParsedRequest, model: LiveModel) -> ApiError | None:
        """Check the request against the limits of its model and key; build the engine's body."""
        if request.stream and not self.route.streams:
            return errors.invalid("This route has no streams.", "stream")
        most = 0
        for limits in (model.limits, self._caller.limits):
            if limits is None:
                continue
            refusal = check_limits(request, limits)
            if refusal is not None:
                return refusal
            asked = limits.max_output_tokens
            most = min(most, asked) if most and asked else most or asked
        body = engine_body(self.body, request, model.route, self.route, most)
        if isinstance(body, ApiError):
            return body
        self.body = body
        return None

    # Ends

    def add_debug_headers(self) -> None:
        """Add to the answer the headers that name the replica, if the client may see them."""
        wanted = self._state.options.debug_headers
        if wanted == "never" or (wanted == "asked" and self.head.debug != b"1"):
            return
        record = self.record
        queued = (record.queue_seconds or 0.0) * 1000
        total = (time.monotonic() - record.started_at) * 1000
        self.http.extra += (
            f"x-partitiond-replica: {record.replica_id}\r\n"
            f"x-partitiond-attempts: {record.attempts}\r\n"
            f"x-partitiond-queue-ms: {queued:.3f}\r\n"
            f"x-partitiond-first-byte-ms: {total:.3f}\r\n"
        ).encode()

    def settle(self) -> None:
        """Charge the key, in the same way for every end, and correct the estimated reservation."""
        super().settle()
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, float(self.record.charge.tokens))

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count, trace and log the request."""
        state, record = self._state, self.record
        record.count(state.metrics, seconds, self.flight, replica)
        if self._trace is not None and self._trace.sampled and state.tracer is not None:
            state.tracer.ended(self._trace, record, self.flight, seconds)
        record.write(state.log, seconds)
