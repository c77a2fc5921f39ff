"""Serves one complete request: finds a replica for it, relays the answer, and ends it.

`phases` has its phases, and decides what happens in each. A request has no task: its client's
connection, the model's queue, the engine's connection and the sweeper call it, and each call does
its work at once. It is composed of

    sender   who sent it and gets its answer: a client (`IncomingRequest`), or another host
    elsewhere   the other hosts that may serve it (`HostSearch`), or None
    attempt     its attempt on a replica (`Attempt`), or None
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Cost, Rejected
from partitiond.core.dispatch.quarantine import Exposure, fingerprint
from partitiond.core.dispatch.retry_budget import KEPT_FOR_FAILURES
from partitiond.core.dispatch.routing import RouteKind
from partitiond.core.keys.tokens_charged import charge, ending_of
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.live_requests import NOBODY, AnyReplica, LiveRequest
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.edge.answer import Answer, ClientSide
from partitiond.proxy.edge.attempt import TIME_LIMITS, Attempt, AttemptOwner, timed_out
from partitiond.proxy.edge.phases import AfterFailure, Phase, after_failure, passed_limit
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.keys.accounts import Receipt
from partitiond.proxy.peers.hop import RemoteRequest
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError, AttemptError, from_failure, from_rejected
from partitiond.proxy.request.parts import ParsedRequest
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
WAITING_SECONDS: Final = 15.0
"""Pause between signs of life to a client whose stream waits for a replica to start: shorter than
the 30 to 60 s after which proxies and clients give up what is silent. Until the first one an error
is an answer of its own, with its status. Chosen."""
_PAUSED: Final = -2
"""Progress of an answer whose client does not read."""


class Sender:
    """Whoever sent a request and gets its answer.

    Attributes:
        held_bytes: of a large body that are counted.
        client: the connection.
        exchange: serves the request, once it is complete and admitted.
        stall_seconds: how long it may read nothing of its answer.
        later_seconds: how much later than by its own limits it is given up.
        retries: a failed attempt is repeated here; else it is told, and sent on by who is told.
    """

    client: ClientSide
    exchange: "Exchange | None"
    route: DataRoute
    answer: Answer
    record: Record
    held_bytes = 0
    stall_seconds = math.inf
    later_seconds = 0.0
    retries = True

    def received(self, data: bytes) -> None:
        """Take a piece of the body."""
        raise NotImplementedError

    def received_all(self) -> None:
        """Take the end of the body: start the request, or refuse it."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget a request that is not served yet: its client has left."""
        raise NotImplementedError

    def refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        raise NotImplementedError

    def hold_body(self, size: int) -> bool:
        """Count the `size` bytes of a large body received so far; False if there is no room."""
        has_room = self.client.state.bodies.take(self.record.caller, size - self.held_bytes)
        if has_room:
            self.held_bytes = size
        return has_room

    def release_body(self) -> None:
        """Release a body that is not needed any more."""
        if self.held_bytes:
            self.client.state.bodies.add(self.record.caller, -self.held_bytes)
            self.held_bytes = 0

    def pause(self) -> None:
        """Pause the answer, because the client's buffer is full."""
        if self.exchange is not None:
            self.exchange.pause()

    def resume(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        if self.exchange is not None:
            self.exchange.resume()

    def client_gone(self) -> None:
        """End the request, in any phase, because the client has left."""
        if self.exchange is not None:
            self.exchange.client_gone()
        else:
            self.drop()

    def on_bug(self) -> None:
        """Log a bug of ours and end the request, lest it hang; call it inside `except`."""
        if self.exchange is not None:
            self.exchange.on_bug()
            return
        _logger.exception("request %s failed inside the proxy", self.record.request_id)
        self.refuse(errors.INTERNAL)

    def waits(self) -> None:
        """Note that the request still waits for a replica that starts."""

    def works(self) -> None:
        """Note that the engine works on a stream that shows nothing yet."""

    def attempt_begins(self, replica_id: str) -> None:
        """Note that a replica gets the request."""

    def attempt_failed(self, number: int) -> None:
        """Note that the replica failed, and the number of the failure."""

    def answer_begins(self) -> None:
        """Add headers to the answer, whose head is sent next."""

    def abort(self) -> None:
        """Close the client's connection without sending the bytes that it does not read."""
        self.client.transport.abort()

    def close_books(self, seconds: float, replica: LiveReplica | None) -> None:
        """Count and log the request, which ended after so many seconds.

        Args:
            replica: of this host, that gave the answer; None if no replica here did.
        """
        raise NotImplementedError

    def ended(self) -> None:
        """Go on after the request's end; harmless if that is done."""
        raise NotImplementedError


class Exchange(AttemptOwner):
    """One request in flight (see the module).

    Attributes:
        phase: see `phases`.
        live: its admission.
        deadline: until when it must have its whole answer, monotonic seconds.
        paused: the client does not read at the moment.
        receipt: for what its key was debited, until that is settled.
        failure: of the attempt before, while a retry waits.
        failed_on: where its attempts failed, and the numbers of these failures.
    """

    def __init__(
        self, state: ProxyState, sender: Sender, model: LiveModel, request: ParsedRequest,
        body: bytes, *, cost: Cost, now: float,
    ) -> None:  # fmt: skip
        self._state = state
        self._sender = sender
        self.route = sender.route
        self.answer = sender.answer
        self.record = sender.record
        self.model = model
        self.request = request
        self.body = body
        self.traced = b""
        self.live = LiveRequest(self, self.record.request_id, cost, now)
        self.deadline = now + state.options.total_timeout_seconds
        self.phase = Phase.WAITING
        self.paused = False
        self.receipt: Receipt | None = None
        self.failure: AttemptError | None = None
        self._refusal: tuple[int, bytes, bytes, bytes] | None = None
        """What the first replica answered, while another is asked as well."""
        self.elsewhere: RemoteRequest | None = None
        self.attempt: Attempt | None = None
        self._suspected = False
        self._is_charged = False
        self._digest = b""
        self.failed_on: list[tuple[AnyReplica, int]] = []
        self._progress = -1
        self._progress_at = now

    # Finding a replica

    def begin(self, *, again: bool = False) -> None:
        """Find a replica; from now on the request is in flight.

        Args:
            again: another host had placed it before.
        """
        state, record = self._state, self.record
        record.model, record.stream = self.model.route.name, self.request.stream
        record.started_at = self.live.started_at
        state.exchanges.add(self)
        if self._sender.retries:
            self.model.retries.count_request()
        if state.quarantine:
            quarantined = state.quarantine.check(self.fingerprint(), self.live.started_at)
            if quarantined is not None:
                self.refused(quarantined)
                return
        self._place(again=again)

    def _place(self, *, again: bool) -> None:
        self.phase = Phase.WAITING
        if self.elsewhere is None:
            self.place_here(again=again)
        else:
            self.elsewhere.place(again=again)

    def place_here(self, *, again: bool) -> None:
        """Find a replica of this host, or wait for one, or end with a refusal.

        Args:
            again: the request had a place before: it goes first.
        """
        placed = self.model.place(self.live, again=again)
        if isinstance(placed, Rejected):
            self.refused(placed)
        elif placed is not None:
            self.placed(placed)

    # Calls of the model's queue

    def placed(self, replica: AnyReplica) -> None:
        """Begin an attempt on the replica, where the request has a place now."""
        live, record, is_here = self.live, self.record, isinstance(replica, LiveReplica)
        if self.elsewhere is not None:
            self.elsewhere.placed()
        live.attempts += 1
        record.attempts = live.attempts - live.unreached
        self._sender.attempt_begins(replica.replica_id)
        # The queue of the host that has the replica charges the key.
        self._is_charged = self._is_charged or is_here
        record.replica_id, record.host = replica.replica_id, replica.host
        if record.queue_seconds is None:
            record.queue_seconds = live.placed_at - live.started_at
        if record.attempts == 1:
            self.model.remember(live, replica.replica_id, is_own=is_here)
        self.phase = Phase.ATTEMPTING
        attempt = self.attempt = Attempt(self, replica, self._state)
        self._progress, self._progress_at = 0, live.placed_at
        if self.paused:
            attempt.pause()
        attempt.start()

    def refused(self, rejected: Rejected) -> None:
        """Fail: there is no place for the request."""
        self.fail_waiting(from_rejected(rejected))

    def fail_waiting(self, error: ApiError) -> None:
        """Fail without a place: with the failure of the attempt before, if there was one."""
        if self._answer_as_refused():
            return
        if self.failure is None:
            self.fail(error, "refused")
        else:
            self.fail(from_failure(self.failure), "failed")

    def exposure(self, now: float) -> Exposure:
        """Return what the quarantine needs to judge this request after its replica's death."""
        is_sent = self.attempt is not None and self.attempt.sent
        return Exposure(
            self.fingerprint(),
            now - self.live.placed_at if is_sent else None,
            self.request.stream,
            self.phase is Phase.ANSWERING,
        )

    def suspected(self) -> None:
        """Never send the request to another replica, because it may have killed its own."""
        self._suspected = True

    def fingerprint(self) -> bytes:
        """Return the digest of the model and the body, by which the quarantine knows it."""
        if not self._digest:
            self._digest = fingerprint(self.model.route.name, self.body)
        return self._digest

    # Calls of the client's side

    def client_gone(self) -> None:
        """End the request because the client has left."""
        self._abort("client_gone")

    def pause(self) -> None:
        """Pause the answer, because the client's buffer is full."""
        self.paused = True
        if self.attempt is not None:
            self.attempt.pause()

    def resume(self) -> None:
        """Resume the answer, because the client has read its buffer."""
        self.paused = False
        self._progress = -1
        if self.attempt is not None:
            self.attempt.resume()

    # Calls of the state and its sweeper

    def sweep(self, now: float) -> None:
        """Check whether a time limit has passed."""
        if self.phase is Phase.WAITING and self.elsewhere is not None:
            self.elsewhere.sweep(now)
        is_told = self.live.held or self.answer.is_promised
        if is_told and now - self._progress_at >= WAITING_SECONDS:
            self.waits(now)
        attempt = self.attempt
        if attempt is not None:
            self._sweep_attempt(attempt, now)
        elif self.phase is Phase.WAITING and now > self.deadline:
            self.leave()
            outcome = "refused" if self.failure is None else "failed"
            self.fail(from_failure(timed_out("total_timeout")), outcome)

    def waits(self, now: float) -> None:
        """Show life: the request, if it is of a stream, still waits for a replica that starts."""
        if self.phase is Phase.WAITING and self.request.stream and not self.live.attempts:
            self._progress_at = now
            self._sender.waits()

    def _sweep_attempt(self, attempt: Attempt, now: float) -> None:
        progress = _PAUSED if self.paused else attempt.progress()
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
            if self.phase is Phase.ATTEMPTING and progress > 0:
                self._sender.works()
        if self.paused:
            sender = self._sender
            earlier = now - sender.later_seconds
            is_stalled = earlier - self._progress_at > sender.stall_seconds
            if is_stalled or earlier > self.deadline:
                self._abort(CLIENT_STALLED)
            return
        attempt.measure(now)
        passed = passed_limit(
            self.phase,
            self._state.options,
            now=now - attempt.replica.later_seconds,
            deadline=self.deadline,
            progress_at=self._progress_at,
            stream=self.request.stream,
        )
        if passed:
            attempt.time_out(passed)

    def shut_down(self) -> None:
        """End the request with an error, because the grace of the shutdown is over."""
        if self.phase is not Phase.ENDED:
            self._end_attempt()
            self.record.at_work = False  # nobody pays for what had shown nothing
            self.give_up(errors.SHUTTING_DOWN)

    # Bugs of ours

    def on_bug(self) -> None:
        """Log a bug of ours and end the request, lest it hang; call it inside `except`."""
        request_id = self.record.request_id
        about = {"request_id": request_id, "replica": self.record.replica_id}
        _logger.exception("request %s failed inside the proxy", request_id, extra=about)
        if self.phase is not Phase.ENDED:
            try:
                self._fail_internal()
            except Exception:
                # The code that ends requests is broken: send no answer, but leave nothing behind.
                _logger.exception("request %s could not be ended properly", request_id, extra=about)
            else:
                return
        self._abandon()

    def _fail_internal(self) -> None:
        """End the request with an error."""
        self._end_attempt()
        self.record.at_work = False  # nobody pays for a bug of ours, but for what had come before
        self.leave()
        self.fail(errors.INTERNAL, "failed")

    def _abandon(self) -> None:
        """Leave nothing of the request behind, whatever is broken."""
        self.phase = Phase.ENDED
        cleanups: tuple[Callable[[], object], ...] = (
            self._end_attempt, self._sender.abort, self.leave, self.live.leave,
            self._give_receipt_back, self._forget, self._sender.ended,
        )  # fmt: skip
        for clean_up in cleanups:
            with contextlib.suppress(Exception):
                clean_up()

    def _give_receipt_back(self) -> None:
        """Settle with zero use (it is unknown), lest the key keep it in flight for ever."""
        receipt, self.receipt = self.receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, 0.0)

    def _forget(self) -> None:
        self._state.exchange_ended(self)

    # Calls of the attempt

    def first_content(self, data: bytes) -> None:
        """Begin the answer."""
        self._was_served()
        self.record.ttft_seconds = time.monotonic() - self.live.started_at
        self.phase = Phase.ANSWERING
        self._sender.answer_begins()
        self.answer.start_stream(data)

    def finished_stream(self, data: bytes, outcome: str, error: str) -> None:
        """End a proper stream; give the place back even if the client has not read all of it."""
        if self.phase is not Phase.ANSWERING:
            self.first_content(data)
            data = b""
        self._judge_replica(outcome)
        self.leave()
        self.answer.end_stream(data)
        self._end(outcome, error)

    def finished_whole(
        self, status: int, content_type: bytes, body: bytes, headers: bytes = b""
    ) -> None:
        """Send a whole answer: the engine's answer to the request, or its refusal."""
        outcome, error = ("ok", "") if status == 200 else ("invalid", "engine_rejected")
        if status == 200:
            self._was_served()
        elif self._asks_another((status, content_type, body, headers)):
            return
        self._judge_replica(outcome)
        self.leave()
        self._sender.answer_begins()
        self.answer.whole(status, content_type, body, headers)
        self._end(outcome, error)

    def _answer_as_refused(self) -> bool:
        """Answer as the first replica did, if the one that was asked as well has no answer."""
        if self._refusal is None:
            return False
        self.attempt = None
        self.leave()
        self._sender.answer_begins()
        self.answer.whole(*self._refusal)
        self._end("invalid", "engine_rejected")
        return True

    def attempt_failed(self, failure: AttemptError) -> None:
        """Retry on another replica, or send the error to the client."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None, "an attempt fails once"
        live, replica, options = self.live, attempt.replica, self._state.options
        if failure.kind not in TIME_LIMITS:
            self.record.at_work = False
        # Before its place is given back, lest another request take that one.
        is_unreached = failure.kind == "connect" and replica.connect_failed()
        if not is_unreached:
            number = replica.failed(self._source())
            self.failed_on.append((replica, number))
            self._sender.attempt_failed(number)
        live.leave()
        if replica.counted_as:
            self._state.metrics.upstream_failures[replica.counted_as, failure.kind] += 1
        if self.phase is not Phase.ANSWERING and self._answer_as_refused():
            return
        following = after_failure(
            self.phase,
            failure.kind,
            suspected=self._suspected,
            unreached=is_unreached,
            attempts=live.attempts - live.unreached,
            most=options.max_attempts if self._sender.retries else 0,
        )
        if following is AfterFailure.REFUSE:
            self.fail(from_rejected(QUARANTINED), "failed")
        elif following is AfterFailure.MOVE:
            self._log_failure(replica, failure)
            live.unreached += 1
            self._place(again=True)
        elif following is AfterFailure.RETRY and self._may_retry(replica):
            self._log_failure(replica, failure)
            self.failure = failure
            self._place(again=True)
        else:
            self.fail(from_failure(failure), "failed", attempt.opening)

    def give_up(self, error: ApiError) -> None:
        """End the request with an error for which no replica is to blame."""
        outcome = "failed" if self.phase is Phase.ANSWERING else "refused"
        self._end_attempt()
        self.leave()
        self.fail(error, outcome)

    def _log_failure(self, replica: AnyReplica, failure: AttemptError) -> None:
        """Log a failed attempt that is retried; the request's own line covers the last one."""
        record = self.record
        self._state.log.write(
            json_line(
                "attempt_failed",
                request_id=record.request_id,
                model=record.model,
                replica=replica.replica_id,
                attempt=self.live.attempts,
                kind=failure.kind,
                message=failure.message,
            )
        )

    def _may_retry(self, replica: AnyReplica, leave: float = 0.0) -> bool:
        """Whether to retry elsewhere; if so, a retry is taken from the budget, but not the last."""
        live, model = self.live, self.model
        live.tried |= {replica.replica_id}
        live.tried |= model.in_doubt_for(live)
        has_another = model.has_another_for(live) or (
            self.elsewhere is not None and self.elsewhere.has_another()
        )
        return has_another and model.retries.take(leave)

    def _source(self) -> str:
        """Return whose failures count once: the key's, or without keys those of this very text."""
        return self.live.share.key or self.fingerprint().hex()

    def _was_served(self) -> None:
        for replica, number in self.failed_on:
            replica.served_elsewhere(number)

    def _asks_another(self, refusal: tuple[int, bytes, bytes, bytes]) -> bool:
        """Ask another replica as well, once, if this one refuses whatever it is sent."""
        for before, number in self.failed_on:
            if isinstance(before, LiveReplica):
                before.reputation.refused_elsewhere(number)
        replica = None if self.attempt is None else self.attempt.replica
        if self.failed_on or not isinstance(replica, LiveReplica) or not self.live.cost.sequences:
            return False
        number = replica.reputation.refused(time.monotonic())
        has_good = number and self.model.in_doubt_for(self.live)
        if not (has_good and self._may_retry(replica, leave=KEPT_FOR_FAILURES)):
            return False
        self.failed_on.append((replica, number))
        self.attempt, self.record.at_work, self._refusal = None, False, refusal
        self.live.leave()
        self._place(again=True)
        return True

    def _judge_replica(self, outcome: str) -> None:
        """Tell the replica how its attempt ended; an engine's refusal says nothing of it."""
        if self.attempt is None:
            return
        if outcome == "failed":
            self.attempt.replica.failed(self._source())
        elif outcome == "ok" and self.route.kind is not RouteKind.TOKENIZE:
            self.attempt.replica.succeeded()

    # Ends

    def fail(self, error: ApiError, outcome: str, opening: bytes = b"") -> None:
        """End the request with an error, as its answer or as the end of its stream."""
        self.answer.error(error, opening)
        self._end(outcome, error.code or "")

    def _abort(self, reason: str) -> None:
        """End a request whose client is gone."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        if reason == CLIENT_STALLED:
            self._sender.abort()  # first: else the next request of its connection would begin
        self._end_attempt()
        self.leave()
        self._end("client_gone", reason)

    def _end_attempt(self) -> None:
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.cancel()

    def leave(self) -> None:
        """Give the place back, in the queue or at a replica, here or at another host."""
        live = self.live
        if self.elsewhere is not None:
            self.elsewhere.leave()
        self.model.stop_waiting(live)
        if live.replica is not None:
            self.record.service_seconds = time.monotonic() - live.placed_at
            live.leave()

    def _end(self, outcome: str, error: str) -> None:
        """End the request: count it, learn from it and log it; called once per request."""
        self.phase = Phase.ENDED
        # Break reference cycles, so that nothing waits for the garbage collector.
        attempt, self.attempt = self.attempt, None
        elsewhere, self.elsewhere = self.elsewhere, None
        if elsewhere is not None:
            elsewhere.leave()
        state, record = self._state, self.record
        record.outcome, record.error = outcome, error
        record.status = self.answer.status
        self._settle()
        now = time.monotonic()
        replica = None if attempt is None else attempt.replica
        self._sender.close_books(
            now - record.started_at, replica if isinstance(replica, LiveReplica) else None
        )
        if outcome == "ok":
            generates = self.route.kind is RouteKind.GENERATE
            record.teach(self.model, self.request, self.live, generates=generates)
        state.exchange_ended(self)
        if state.quarantine and outcome == "ok":
            state.quarantine.answered(self.fingerprint())
        self._sender.ended()
        self.live.owner = NOBODY

    def _settle(self) -> None:
        """Charge the key, in the same way for every end, and correct the estimated reservation."""
        live, record = self.live, self.record
        if live.cost.sequences:  # counting tokens is free
            streamed = record.ttft_seconds is not None
            record.charge = charge(
                ending_of(record.outcome, at_work=record.at_work, streamed=streamed),
                record.usage,
                record.seen,
                live.cost,
                tokens_per_byte=self.model.figures.of(record.key_id).text.value,
                tokens_per_s=self.model.tokens_per_s(record.replica_id, record.host),
                at_once=live.takes.sequences,
            )
        tokens = float(record.charge.tokens)
        if self._is_charged and live.cost.sequences:
            self.model.slots.settle(live, tokens)
        receipt, self.receipt = self.receipt, None
        if receipt is not None:
            self._state.accounts.settle(receipt, tokens)
