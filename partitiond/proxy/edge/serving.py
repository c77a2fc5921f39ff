"""Finds a replica for a request, and relays the answer, until the request's end.

    waiting -> running -> over

A request has no task: its client's connection, the model's queue, the engine's connection and the
sweeper call it, and each call does its work at once. Nothing is sent to the client before the first
content has come from an engine. Until then an attempt may be repeated on another replica, at most
once and within the retry budget. Later failures become an error event and the stream's proper end.

Who sent the request is decided by the kinds of `Serving`: a client (`exchange`), or the proxy of
another host for its client.
"""

import contextlib
import enum
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.quarantine import Exposure, fingerprint
from partitiond.core.keys.charging import ObservedOutput, charge, ending_of, tokens_seen
from partitiond.proxy.dispatch.flights import NOBODY, FlightTarget
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.answer import Answer
from partitiond.proxy.edge.attempt import TIME_LIMITS, Attempt, AttemptOwner, timed_out
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, AttemptError, from_failure, from_rejected
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.logs import json_line
from partitiond.proxy.telemetry.record import Record

_logger = logging.getLogger("partitiond.proxy")

CLIENT_STALLED: Final = "client_stalled"
QUARANTINED: Final = Rejected(
    422,
    "request_quarantined",
    "The replica died while it began this very request. It is not sent to another one.",
    None,
)


class Phase(enum.Enum):
    """The phase of a request."""

    READING = enum.auto()
    REFUSING = enum.auto()
    """The refusal is decided; the rest of the body is read and dropped first."""
    WAITING = enum.auto()
    RUNNING = enum.auto()
    OVER = enum.auto()


class Serving(AttemptOwner):
    """A complete request, until its answer has been sent (see the module).

    Attributes:
        model: that it asks for.
        body: for the engine, once the request is complete.
        paused: the client does not read at the moment.
        client_later_seconds: how much later than by its own limits a client that does not read is
            given up.
    """

    model: LiveModel
    client_later_seconds = 0.0

    def __init__(self, state: ProxyState, route: DataRoute, answer: Answer, record: Record) -> None:
        self._state = state
        self.route = route
        self.answer = answer
        self.record = record
        self.phase = Phase.READING
        self.body = b""
        self.traced = b""
        self.paused = False
        self._deadline = math.inf
        self._suspected = False
        self._is_charged = False
        self._owes_retry = False
        self._digest = b""
        self._attempt: Attempt | None = None
        self._failure: AttemptError | None = None
        self._failed_on: list[FlightTarget] = []
        self._since = 0.0
        self._seen = -1

    # Differences between the kinds

    def abort_client(self) -> None:
        """Close the client's connection without sending the bytes that it does not read."""
        raise NotImplementedError

    def add_debug_headers(self) -> None:
        """Add to the answer the headers that name the replica, if the client may see them."""
        raise NotImplementedError

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count and log the request, which ended after so many seconds.

        Args:
            replica: of this host, that gave the answer; None if no replica here did.
        """
        raise NotImplementedError

    def answered(self) -> None:
        """Go on after the request's end."""
        raise NotImplementedError

    # Calls of the client's connection

    def client_gone(self) -> None:
        """End the request because the client has left."""
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
        elif self.phase is Phase.WAITING and now > self._deadline:
            self._leave()
            outcome = "refused" if self._failure is None else "failed"
            self._fail(from_failure(timed_out("total_timeout")), outcome)

    def _sweep_running(self, now: float) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        options = self._state.options
        if self.paused:
            earlier = now - self.client_later_seconds
            if self._seen != -2:
                self._seen, self._since = -2, now
            elif earlier - self._since > options.client_timeout_seconds or earlier > self._deadline:
                self._abort(CLIENT_STALLED)
            return
        attempt.measure(now)
        progress = attempt.progress()
        if progress != self._seen:
            self._seen, self._since = progress, now
        earlier = now - attempt.replica.later_seconds
        if earlier > self._deadline:
            attempt.time_out("total_timeout")
        elif self.answer.streaming:
            if earlier - self._since > options.between_tokens_timeout_seconds:
                attempt.time_out("between_tokens_timeout")
        elif (
            self.request.stream and earlier - attempt.sent_at > options.first_token_timeout_seconds
        ):
            attempt.time_out("first_token_timeout")

    def shut_down(self) -> None:
        """End the request with an error, because the grace of the shutdown is over."""
        if self.phase in {Phase.WAITING, Phase.RUNNING}:
            outcome = "failed" if self.answer.streaming else "refused"
            self._end_attempt()
            self._leave()
            self._fail(errors.SHUTTING_DOWN, outcome)

    # Bugs of ours

    def crashed(self) -> None:
        """Log a bug of ours and end the request, lest it hang; call it inside `except`."""
        request_id = self.record.request_id
        about = {"request_id": request_id, "replica": self.record.replica_id}
        _logger.exception("request %s failed inside the proxy", request_id, extra=about)
        try:
            self.apologise()
        except Exception:
            # The code that ends requests is broken: send no answer, but leave nothing behind.
            _logger.exception("request %s could not be ended properly", request_id, extra=about)
            self.drop()

    def apologise(self) -> None:
        """End the request with an error after a bug of ours, if it has not ended."""
        if self.phase is Phase.OVER or self not in self._state.flights:
            self.drop()  # it has its answer; only the clean-up is missing
            return
        self._end_attempt()
        self.record.at_work = False  # nobody pays for a bug of ours, but for what had come before
        self._leave()
        self._fail(errors.INTERNAL, "failed")

    def drop(self) -> None:
        """Leave nothing of the request behind, and answer nothing."""
        self.phase = Phase.OVER
        for way_out in self.ways_out():
            with contextlib.suppress(Exception):
                way_out()

    def ways_out(self) -> list[Callable[[], object]]:
        """Return the clean-up actions, each independent of the others."""
        ways: list[Callable[[], object]] = [self._end_attempt, self.abort_client]
        if self in self._state.flights:
            ways += [self._leave, self.flight.leave, self._land]
        return ways

    def _land(self) -> None:
        self._state.landed(self)

    # Finding a replica

    def place(self, *, again: bool) -> None:
        """Find a replica, or wait for one, or end with a refusal.

        Args:
            again: the request had a place before: it goes first.
        """
        self.phase = Phase.WAITING
        placed = self.model.place(self.flight, again=again)
        if placed is None:
            return
        if isinstance(placed, Rejected):
            self.refused(placed)
        else:
            self.placed(placed)

    # Calls of the model's queue

    def placed(self, replica: FlightTarget) -> None:
        """Begin an attempt on the replica, where the request has a place now."""
        flight, record = self.flight, self.record
        flight.attempts += 1
        record.attempts = flight.attempts - flight.unreached
        self._owes_retry = False
        # The queue of the host that has the replica charges the key.
        self._is_charged = self._is_charged or isinstance(replica, LiveReplica)
        record.replica_id = replica.replica_id
        if record.queue_seconds is None:
            record.queue_seconds = flight.placed_at - flight.started_at
        if record.attempts == 1:
            here = isinstance(replica, LiveReplica)
            self.model.attraction.remember(flight, replica.replica_id, here=here)
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

    def is_quarantined(self, now: float) -> bool:
        """Refuse the request if it killed replicas, or may have; return whether it was refused."""
        state = self._state
        if not state.quarantine:
            return False
        quarantined = state.quarantine.check(self._fingerprint(), now)
        if quarantined is None:
            return False
        self._suspected = True
        self.refused(quarantined)
        return True

    def _fingerprint(self) -> bytes:
        if not self._digest:
            self._digest = fingerprint(self.model.route.name, self.body)
        return self._digest

    # Calls of the attempt

    def connection_broke(self, replica: FlightTarget, *, idle_end: bool) -> float:
        """Judge all requests on a dead replica, before this request is sent elsewhere."""
        return replica.look_for_death(self._state.quarantine, idle_end=idle_end)

    def source(self) -> str:
        """Return whose failures count once: the key's, or without keys those of this very text."""
        return self.flight.share.key or self._fingerprint().hex()

    def _is_served(self) -> None:
        for replica in self._failed_on:
            replica.served_elsewhere()

    def first_content(self, data: bytes) -> None:
        """Begin the answer."""
        self._is_served()
        self.record.ttft_seconds = time.monotonic() - self.flight.started_at
        self.add_debug_headers()
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
        if status == 200:
            self._is_served()
        self._leave()
        self.add_debug_headers()
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
        # Before its place is given back, lest another request take that one.
        unreached = replica is not None and failure.kind == "connect" and replica.connect_failed()
        if replica is not None and not unreached:
            replica.failed(self.source())
            self._failed_on.append(replica)
        flight.leave()
        if replica is not None and replica.counted_as:
            state.metrics.upstream_failures[replica.counted_as, failure.kind] += 1
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
            self.place(again=True)
            return
        if replica is None or not self._may_retry(replica, failure):
            self._fail(from_failure(failure), "failed")
            return
        self._log_failure(replica, failure)
        self._failure = failure
        self.place(again=True)

    def _log_failure(self, replica: FlightTarget, failure: AttemptError) -> None:
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

    def _may_retry(self, replica: FlightTarget, failure: AttemptError) -> bool:
        """Whether to retry elsewhere; True holds retry credit until the request has a place."""
        flight = self.flight
        attempts = flight.attempts - flight.unreached
        if attempts >= self._state.options.max_attempts or failure.kind == "total_timeout":
            return False
        flight.tried |= {replica.replica_id}
        flight.tried |= self.model.in_doubt_for(flight)
        self._owes_retry = self.has_another() and self.model.retries.take()
        return self._owes_retry

    def has_another(self) -> bool:
        """Return whether a replica that has not failed the request yet could take it."""
        return self.model.has_another_for(self.flight)

    # Ends

    def _fail(self, error: ApiError, outcome: str, opening: bytes = b"") -> None:
        self.answer.error(error, opening)
        self._over(outcome, error.code or "")

    def _abort(self, reason: str) -> None:
        """End a request whose client is gone."""
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        if reason == CLIENT_STALLED:
            self.abort_client()  # first: else the next request of its connection would begin
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
        self.settle()
        now = time.monotonic()
        replica = None if attempt is None else attempt.replica
        self.close_books(
            now - record.started_at, replica if isinstance(replica, LiveReplica) else None
        )
        if outcome == "ok":
            record.teach(self.model, self.request, self.flight, now)
        state.landed(self)
        # A refused suspect does not end the trial of an identical request that is in flight.
        if state.quarantine and (outcome == "ok" or not self._suspected):
            state.quarantine.ended(self._fingerprint(), well=outcome == "ok")
        self.answered()
        self.flight.owner = NOBODY

    def tokens_of(self, seen: ObservedOutput) -> int:
        """Return the output tokens that its stream has shown."""
        per_byte = self.model.figures.of(self.record.key_id).text.value
        return tokens_seen(seen, self.flight.cost, per_byte)

    def settle(self) -> None:
        """Charge the key, in the same way for every end, and correct the estimated reservation."""
        flight, record = self.flight, self.record
        if flight.cost.sequences:  # counting tokens is free
            streamed = record.ttft_seconds is not None
            ending = ending_of(record.outcome, at_work=record.at_work, streamed=streamed)
            record.charge = charge(
                ending,
                record.usage,
                record.seen,
                flight.cost,
                tokens_per_byte=self.model.figures.of(record.key_id).text.value,
                tokens_per_s=self.model.tokens_per_s(record.replica_id),
                at_once=flight.takes.sequences,
            )
        if self._is_charged:
            self.model.slots.settle(flight, float(record.charge.tokens))
