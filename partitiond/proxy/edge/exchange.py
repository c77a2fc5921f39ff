"""Handles one request of a client, from its head to its record.

    reading -> (refusing) -> over
    reading -> waiting -> running -> over

An exchange has no task: the client's protocol, the model's queue, the engine's connection and the
sweeper call it, and each call does its work at once. Nothing is sent to the client before the first
content has come from an engine. Until then an attempt may be repeated on another replica, at most
once and within the retry budget. Later failures become an error event and the stream's proper end.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.quarantine import Exposure, fingerprint
from partitiond.core.dispatch.routing import RouteKind
from partitiond.core.keys.charging import Estimate, charge, ending_of
from partitiond.proxy.dispatch.estimates import estimates_of
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import NOBODY, Flight, LiveReplica
from partitiond.proxy.edge.attempt import TIME_LIMITS, Attempt, AttemptOwner, timed_out
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.incoming import Phase, RequestClient
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.keys.accounts import Receipt
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, AttemptError, from_failure, from_rejected
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import (
    DataRoute,
    check_limits,
    engine_body,
    parse_request,
    with_defaults,
)
from partitiond.proxy.telemetry.logs import json_line

__all__ = ["Exchange", "Phase"]

CLIENT_STALLED: Final = "client_stalled"
QUARANTINED: Final = Rejected(
    422,
    "request_quarantined",
    "The replica died while it began this very request. It is not sent to another one.",
    None,
)


class Exchange(AttemptOwner):
    """One request of a client (see the module).

    Attributes:
        paused: the client does not read at the moment.
        estimate: the use that was estimated when the request was admitted.
    """

    model: LiveModel
    estimate: Estimate

    def __init__(
        self, client: RequestClient, route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None,
    ) -> None:  # fmt: skip
        super().__init__(client, route, head, keep_alive=keep_alive, chunked=chunked, known=known)
        self.paused = False
        self._suspected = False
        self._owes_retry = False
        self._digest = b""
        self._attempt: Attempt | None = None
        self._failure: AttemptError | None = None
        self._receipt: Receipt | None = None
        self._since = 0.0
        self._seen = -1

    # Calls of the client's protocol

    def client_gone(self) -> None:
        """End the request, in any phase, because the client has left."""
        self._abort("client_gone")

    def pause(self) -> None:
        """Pause the answer, because the client's buffer is full."""
        self.paused = True
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        self.paused = False
        self._seen = -1
        if self._attempt is not None:
            self._attempt.resume()

    # Calls of the state and its sweeper

    def sweep(self, now: float) -> None:
        """Check whether a time limit has passed."""
        if self.phase is Phase.RUNNING:
            self._sweep_running(now)
        elif self.phase is not Phase.WAITING:
            super().sweep(now)
        elif now > self._deadline:
            self._leave()
            outcome = "refused" if self._failure is None else "failed"
            self._fail(from_failure(timed_out("total_timeout")), outcome)

    def _sweep_running(self, now: float) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        options = self._state.options
        if self.paused:
            if self._seen != -2:
                self._seen, self._since = -2, now
            elif now - self._since > options.client_timeout_seconds or now > self._deadline:
                self._abort(CLIENT_STALLED)
            return
        progress = attempt.progress()
        if progress != self._seen:
            self._seen, self._since = progress, now
        if now > self._deadline:
            attempt.time_out("total_timeout")
        elif self.answer.streaming:
            if now - self._since > options.between_tokens_timeout_seconds:
                attempt.time_out("between_tokens_timeout")
        elif self.request.stream and now - attempt.sent_at > options.first_token_timeout_seconds:
            attempt.time_out("first_token_timeout")

    def shut_down(self) -> None:
        """End the request with an error, because the grace of the shutdown is over."""
        if self.phase in {Phase.WAITING, Phase.RUNNING}:
            outcome = "failed" if self.answer.streaming else "refused"
            self._end_attempt()
            self._leave()
            self._fail(errors.SHUTTING_DOWN, outcome)

    def apologise(self) -> None:
        """End the request with an error after a bug of ours, if it has not ended."""
        if self.phase is Phase.OVER or self not in self._state.flights:
            self._give_receipt_back()
            super().apologise()
            return
        self._end_attempt()
        self.record.at_work = False  # nobody pays for a bug of ours, but for what had come before
        self._leave()
        self._fail(errors.INTERNAL, "failed")

    def ways_out(self) -> list[Callable[[], object]]:
        """Return the clean-up actions, each independent of the others."""
        ways = [self._end_attempt, self._give_receipt_back, *super().ways_out()]
        if self in self._state.flights:
            ways += [self._leave, self.flight.leave, self._land]
        return ways

    def _give_receipt_back(self) -> None:
        """Settle with zero use (it is unknown), lest the key keep it in flight for ever."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, 0.0)

    def _land(self) -> None:
        self._state.landed(self)

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
            trace = self.trace = state.tracer.begin(self.head.traceparent)
            record.trace_id = trace.trace_id
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
        if state.quarantine:
            quarantined = state.quarantine.check(self._fingerprint(), now)
            if quarantined is not None:
                self._suspected = True
                self.refused(quarantined)
                return
        self._place(again=False)

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

    def _place(self, *, again: bool) -> None:
        self.phase = Phase.WAITING
        placed = self.model.place(self.flight, again=again)
        if placed is None:
            return
        if isinstance(placed, Rejected):
            self.refused(placed)
        else:
            self.placed(placed)

    # Calls of the model's queue

    def placed(self, replica: LiveReplica) -> None:
        """Begin an attempt on the replica, where the request has a place now."""
        flight, record = self.flight, self.record
        flight.attempts += 1
        record.attempts = flight.attempts - flight.unreached
        self._owes_retry = False
        record.replica_id = replica.replica_id
        if record.queue_seconds is None:
            record.queue_seconds = flight.placed_at - flight.started_at
        if record.attempts == 1:
            self.model.attraction.remember(flight, replica.replica_id)
        self.phase = Phase.RUNNING
        self._seen = -1
        attempt = self._attempt = Attempt(self, replica, self.route, self._state.options)
        if self.paused:
            attempt.pause()
        attempt.start()

    def refused(self, rejected: Rejected) -> None:
        """Fail: there is no place for the request."""
        failure = self._failure
        if failure is None:
            self._fail(from_rejected(rejected), "refused")
        else:
            self._fail(from_failure(failure), "failed")

    def exposure(self, now: float) -> Exposure:
        """Return what the quarantine needs to judge this request after its replica's death."""
        attempt = self._attempt
        sent = attempt is not None and attempt.sent
        return Exposure(
            self._fingerprint(),
            now - self.flight.placed_at if sent else None,
            self.request.stream,
            self.answer.streaming,
        )

    def suspected(self) -> None:
        """Never send the request to another replica, because it may have killed its own."""
        self._suspected = True

    def _fingerprint(self) -> bytes:
        if not self._digest:
            self._digest = fingerprint(self.model.route.name, self.body)
        return self._digest

    # Calls of the attempt

    def connection_broke(self, replica: LiveReplica, *, idle_end: bool) -> None:
        """Judge all requests on a dead replica, before this request is sent elsewhere."""
        replica.look_for_death(self._state.quarantine, idle_end=idle_end)

    def first_content(self, data: bytes) -> None:
        """Begin the answer."""
        self.record.ttft_seconds = time.monotonic() - self.flight.started_at
        self._add_debug_headers()
        self.answer.start_stream(data)

    def finished_stream(self, data: bytes, outcome: str, error: str) -> None:
        """End a proper stream; give the place back even if the client has not read all of it."""
        if not self.answer.streaming:
            self.first_content(data)
            data = b""
        self._leave()
        self.answer.end_stream(data)
        self._over(outcome, error)

    def finished_whole(
        self, status: int, content_type: bytes, body: bytes, headers: bytes = b""
    ) -> None:
        """Send a whole answer: the engine's answer to the request, or its refusal."""
        self._leave()
        self._add_debug_headers()
        self.answer.whole(status, content_type, body, headers)
        if status == 200:
            self._over("ok", "")
        else:
            self._over("invalid", "engine_rejected")

    def attempt_failed(self, failure: AttemptError) -> None:
        """Retry on another replica, or send the error to the client."""
        attempt, self._attempt = self._attempt, None
        flight, state = self.flight, self._state
        replica = attempt.replica if attempt is not None else None
        if failure.kind not in TIME_LIMITS:
            self.record.at_work = False
        # Before its place is given back, lest another request take a place on a dead replica.
        unreached = replica is not None and failure.kind == "connect" and replica.connect_failed()
        flight.leave()
        if replica is not None:
            if not unreached:
                replica.failed()
            state.metrics.upstream_failures[replica.replica_id, failure.kind] += 1
        if self.answer.streaming:
            opening = attempt.opening if attempt is not None else b""
            self._fail(from_failure(failure), "failed", opening)
            return
        if self._suspected:
            self._fail(from_rejected(QUARANTINED), "failed")
            return
        if replica is not None and unreached:
            # Nothing was sent. Each time one replica fewer is eligible, so this terminates.
            self._log_failure(replica, failure)
            flight.unreached += 1
            self._place(again=True)
            return
        if replica is None or not self._may_retry(replica, failure):
            self._fail(from_failure(failure), "failed")
            return
        self._log_failure(replica, failure)
        self._failure = failure
        self._place(again=True)

    def _log_failure(self, replica: LiveReplica, failure: AttemptError) -> None:
        """Log a failed attempt that is retried; the request's own line covers the last one."""
        record = self.record
        self._state.log.write(
            json_line(
                "attempt_failed",
                request_id=record.request_id,
                model=record.model,
                replica=replica.replica_id,
                attempt=self.flight.attempts,
                kind=failure.kind,
                message=failure.message,
            )
        )

    def _may_retry(self, replica: LiveReplica, failure: AttemptError) -> bool:
        """Whether to retry elsewhere; True holds retry credit until the request has a place."""
        flight = self.flight
        attempts = flight.attempts - flight.unreached
        if attempts >= self._state.options.max_attempts or failure.kind == "total_timeout":
            return False
        flight.tried |= {replica.replica_id}
        self._owes_retry = self.model.has_another_for(flight) and self.model.retries.take()
        return self._owes_retry

    # Ends

    def _add_debug_headers(self) -> None:
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

    def _fail(self, error: ApiError, outcome: str, opening: bytes = b"") -> None:
        self.answer.error(error, opening)
        self._over(outcome, error.code or "")

    def _abort(self, reason: str) -> None:
        """End a request whose client is gone."""
        phase = self.phase
        if phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        if phase in {Phase.READING, Phase.REFUSING}:
            self._state.forget(self)
            return
        if reason == CLIENT_STALLED:
            self.client.abort()  # first: else the next request of its connection would begin
        self._end_attempt()
        self._leave()
        self._over("client_gone", reason)

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    def _leave(self) -> None:
        """Give the place back, in the queue or at a replica."""
        flight = self.flight
        self.model.stop_waiting(flight)
        if flight.replica is not None:
            self.record.service_seconds = time.monotonic() - flight.placed_at
            flight.leave()

    def _over(self, outcome: str, error: str) -> None:
        """End the request: count it, learn from it and log it; called once per request."""
        self.phase = Phase.OVER
        # Break reference cycles, so that nothing waits for the garbage collector.
        attempt, self._attempt = self._attempt, None
        if self._owes_retry:
            self.model.retries.give_back()
        state, record = self._state, self.record
        record.outcome, record.error = outcome, error
        record.status = self.answer.status
        self._settle()
        now = time.monotonic()
        seconds = now - record.started_at
        replica = None if attempt is None else attempt.replica
        record.count(state.metrics, seconds, self.flight, replica)
        if self.trace is not None and self.trace.sampled and state.tracer is not None:
            state.tracer.ended(self.trace, record, self.flight, seconds)
        if outcome == "ok":
            record.teach(self.model, self.request, now)
        record.write(state.log, seconds)
        state.landed(self)
        # A refused suspect does not end the trial of an identical request that is in flight.
        if state.quarantine and (outcome == "ok" or not self._suspected):
            state.quarantine.ended(self._fingerprint(), well=outcome == "ok")
        self.client.exchange_over(self)
        self.flight.owner = NOBODY

    def _settle(self) -> None:
        """Charge the key, in the same way for every end, and correct the estimated reservation."""
        flight, record = self.flight, self.record
        if flight.cost.sequences:  # counting tokens is free
            streamed = record.ttft_seconds is not None
            ending = ending_of(record.outcome, at_work=record.at_work, streamed=streamed)
            record.charge = charge(ending, record.usage, record.seen, self.estimate)
        used = float(record.charge.tokens)
        if flight.attempts:
            self.model.slots.settle(flight, used)
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, used)
