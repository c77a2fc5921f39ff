"""One request of a client, from its head to its record.

    reading -> (refusing) -> over
    reading -> waiting -> running -> over

No task belongs to it: the client's protocol, the model's queue, the engine's connection and the
sweeper call it, and each call does its work at once. Nothing goes to the client before the first
content came from an engine. Until then an attempt may be repeated on another replica, at most once
and within the retry budget; afterwards a failure becomes an error event and the stream's proper
end.
"""

import enum
import math
import time
from typing import TYPE_CHECKING, Final

from partitiond.core.admission import Rejected, estimate_cost
from partitiond.core.routing import NO_REQUEST_LIMITS
from partitiond.proxy import errors
from partitiond.proxy.answer import Answer
from partitiond.proxy.attempt import Attempt
from partitiond.proxy.auth import ANYONE, Caller
from partitiond.proxy.errors import ApiError, AttemptError, from_failure, from_rejected
from partitiond.proxy.heads import RequestHead
from partitiond.proxy.known_heads import KnownHead
from partitiond.proxy.live import NOBODY, Flight, LiveModel, LiveReplica
from partitiond.proxy.record import Record
from partitiond.proxy.requests import (
    ParsedRequest,
    check_limits,
    engine_body,
    parse_request,
)
from partitiond.proxy.routes import DataRoute

if TYPE_CHECKING:
    from partitiond.proxy.lane import DataProtocol

DROPPED_BODIES: Final = 4
"""A refused body is read and dropped up to so many times the allowed size."""
DRAINING_SECONDS: Final = 0.5
"""While shutting down, a refused body may take so long: enough for one that is on its way."""
CLIENT_STALLED: Final = "client_stalled"


class Phase(enum.Enum):
    """Where it is."""

    READING = enum.auto()
    REFUSING = enum.auto()
    """Its refusal is decided; the rest of its body is read and dropped first."""
    WAITING = enum.auto()
    RUNNING = enum.auto()
    OVER = enum.auto()


class Exchange:
    """See the module.

    Attributes:
        body_done: the request's last byte has come.
        paused: the client takes nothing at the moment.
    """

    __slots__ = (
        "_attempt",
        "_caller",
        "_deadline",
        "_failure",
        "_known",
        "_parts",
        "_refusal",
        "_seen",
        "_since",
        "_size",
        "_state",
        "answer",
        "body",
        "body_done",
        "client",
        "flight",
        "head",
        "model",
        "paused",
        "phase",
        "record",
        "request",
        "route",
    )  # fmt: skip

    flight: Flight
    model: LiveModel
    request: ParsedRequest

    def __init__(
        self, client: "DataProtocol", route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None,
    ) -> None:  # fmt: skip
        self.client = client
        self._known = known
        self._state = client.state
        self.route = route
        self.head = head
        request_id = head.request_id()
        self.answer = Answer(
            client, route.dialect, request_id, keep_alive=keep_alive, chunked=chunked
        )
        self.record = Record(route.path, request_id)
        self.phase = Phase.READING
        self.body = b""
        self.body_done = False
        self.paused = False
        self._parts: list[bytes] = []
        self._size = 0
        self._caller: Caller = ANYONE
        self._refusal: ApiError | None = None
        self._attempt: Attempt | None = None
        self._failure: AttemptError | None = None
        self._deadline = math.inf
        self._since = 0.0
        self._seen = -1

    # What the client's protocol calls

    def begin(self) -> None:
        """The head has come: decide what can be decided before the body is read."""
        refusal = self._admit()
        if refusal is not None:
            self._refuse_unread(refusal)

    def received(self, data: bytes) -> None:
        """A piece of the body."""
        self._size += len(data)
        if self.phase is Phase.READING:
            self._parts.append(data)
            if self._size > self._state.options.max_body_bytes:
                self._refuse_unread(errors.body_too_large(self._state.options.max_body_bytes))
        elif self.phase is Phase.REFUSING and self._refusal is not None:
            limit = DROPPED_BODIES * self._state.options.max_body_bytes
            if self._size > limit:
                self._refuse_and_linger(self._refusal)

    def received_all(self) -> None:
        """The body is complete."""
        self.body_done = True
        if self.phase is Phase.READING:
            parts = self._parts
            self.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
            self._start()
        elif self.phase is Phase.REFUSING and self._refusal is not None:
            self._refuse(self._refusal)

    def body_is_broken(self, error: ApiError) -> bool:
        """Nobody can tell where the body ends: refuse; False where that is too late."""
        if self.phase not in {Phase.READING, Phase.REFUSING}:
            return False
        if not self.client.is_answering(self):
            return False
        self._refuse_and_linger(self._refusal or error)
        return True

    def client_gone(self) -> None:
        """The client has left, in whatever phase."""
        self._abort("client_gone")

    def pause(self) -> None:
        """The client's buffer is full."""
        self.paused = True
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        """The client has taken it."""
        self.paused = False
        self._seen = -1
        if self._attempt is not None:
            self._attempt.resume()

    # What the state and its sweeper call

    def await_body(self, now: float) -> None:
        """The rest of the body is still to come."""
        if self._deadline == math.inf:
            self._deadline = now + self._state.options.client_timeout_seconds

    def stop_reading(self, now: float) -> None:
        """The proxy shuts down: a request that is not here yet never will be."""
        if self.phase is Phase.READING:
            self._refusal = errors.SHUTTING_DOWN
            self.phase = Phase.REFUSING
            self._parts = []
        self._deadline = min(self._deadline, now + DRAINING_SECONDS)

    def sweep(self, now: float) -> None:
        """Look whether a time limit was passed."""
        if self.phase is Phase.RUNNING:
            self._sweep_running(now)
        elif now > self._deadline and self.phase in {Phase.READING, Phase.REFUSING}:
            self._refuse_and_linger(self._refusal or errors.BODY_TOO_SLOW)

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
        """The proxy's grace is over."""
        if self.phase in {Phase.WAITING, Phase.RUNNING}:
            outcome = "failed" if self.answer.streaming else "refused"
            self._end_attempt()
            self._leave()
            self._fail(errors.SHUTTING_DOWN, outcome)

    def crashed(self) -> None:
        """A bug of ours: say so, and let go of everything."""
        if self.phase is Phase.OVER:
            self.client.abort()
            return
        in_flight = self.phase in {Phase.WAITING, Phase.RUNNING}
        self._end_attempt()
        if in_flight:
            self._leave()
            self._fail(errors.INTERNAL, "failed")
        else:
            self._refuse(errors.INTERNAL)

    # Admission

    def _admit(self) -> ApiError | None:
        state = self._state
        if state.draining:
            return errors.SHUTTING_DOWN
        if state.table.version == 0:
            return errors.NO_TABLE  # and so it is not known either whether keys are required
        known = self._known
        if known is not None:
            caller = known.caller(state.keys)
        else:
            caller = state.keys.identify(self.head.key())
        if isinstance(caller, ApiError):
            return caller
        self._caller = caller
        self.record.key_id = caller.key_id
        if not caller.may_call(self.route.kind):
            return errors.route_not_allowed(self.route.kind.value)
        return None if known is not None else self.head.check(state.options.max_body_bytes)

    def _start(self) -> None:
        """The request is here: read it, and find it a replica."""
        state = self._state
        request = parse_request(self.body, self.route.measure, state.options)
        if isinstance(request, ApiError):
            self._refuse(request)
            return
        model = state.find_model(request.model)
        if model is None or not self._caller.may_use(model.route.name):
            self._refuse(errors.unknown_model(request.model))
            return
        refusal = self._prepare(request, model)
        if refusal is not None:
            self._refuse(refusal)
            return
        now = time.monotonic()
        self.request, self.model = request, model
        record = self.record
        record.model, record.stream, record.started_at = model.route.name, request.stream, now
        self._deadline = now + state.options.total_timeout_seconds
        size = request.size
        text_tokens = size.prompt_bytes * model.tokens_per_byte.value
        cost = estimate_cost(
            sequences=request.sequences,
            prompt_tokens=(size.prompt_tokens + text_tokens) / max(1, size.prompts),
            max_tokens=size.max_tokens,
            output_p90=model.output_p90.value,
            max_model_len=model.max_model_len,
        )
        longest = self.head.max_wait_seconds()
        self.flight = Flight(
            self, record.request_id, cost, now, math.inf if longest is None else longest
        )
        state.took_off(self)
        self._place(again=False)

    def _prepare(self, request: ParsedRequest, model: LiveModel) -> ApiError | None:
        """Check it against the limits of its model and key, and make the engine's body of it."""
        if request.stream and not self.route.streams:
            return errors.invalid("This route has no streams.", "stream")
        most = 0
        for limits in (model.route.limits, self._caller.limits):
            if limits is NO_REQUEST_LIMITS:
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

    # What the model's queue calls

    def placed(self, replica: LiveReplica) -> None:
        """It has a place: begin an attempt."""
        flight, record = self.flight, self.record
        flight.attempts += 1
        record.attempts = flight.attempts
        record.replica_id = replica.replica_id
        if record.queue_seconds is None:
            record.queue_seconds = flight.placed_at - flight.started_at
        self.phase = Phase.RUNNING
        self._seen = -1
        attempt = self._attempt = Attempt(self, replica, self.route, self._state.options)
        if self.paused:
            attempt.pause()
        attempt.start()

    def refused(self, rejected: Rejected) -> None:
        """It has none."""
        failure = self._failure
        if failure is None:
            self._fail(from_rejected(rejected), "refused")
        else:
            self._fail(from_failure(failure), "failed")

    # What the attempt calls

    def first_content(self, data: bytes) -> None:
        """The answer begins."""
        self.record.ttft_seconds = time.monotonic() - self.flight.started_at
        self._add_debug_headers()
        self.answer.start_stream(data)

    def finished_stream(self, data: bytes, outcome: str, error: str) -> None:
        """The stream ended properly; the place is given back before the client took everything."""
        if not self.answer.streaming:
            self.first_content(data)
            data = b""
        self._leave()
        self.answer.end_stream(data)
        self._over(outcome, error)

    def finished_whole(
        self, status: int, content_type: bytes, body: bytes, headers: bytes = b""
    ) -> None:
        """A whole answer came: to the request, or the engine's complaint about it."""
        self._leave()
        self._add_debug_headers()
        self.answer.whole(status, content_type, body, headers)
        if status == 200:
            self._over("ok", "")
        else:
            self._over("invalid", "engine_rejected")

    def attempt_failed(self, failure: AttemptError) -> None:
        """Try again elsewhere, or tell the client."""
        attempt, self._attempt = self._attempt, None
        flight, state = self.flight, self._state
        replica = attempt.replica if attempt is not None else None
        flight.leave()
        if replica is not None:
            replica.failed()
            state.metrics.upstream_failures[replica.replica_id, failure.kind] += 1
        if self.answer.streaming:
            opening = attempt.opening if attempt is not None else b""
            self._fail(from_failure(failure), "failed", opening)
            return
        if replica is None or not self._may_retry(failure):
            self._fail(from_failure(failure), "failed")
            return
        self._failure = failure
        flight.tried |= {replica.replica_id}
        self._place(again=True)

    def _may_retry(self, failure: AttemptError) -> bool:
        state = self._state
        if self.flight.attempts >= state.options.max_attempts or failure.kind == "total_timeout":
            return False
        return state.may_retry()

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

    def _refuse_unread(self, refusal: ApiError) -> None:
        """Refuse a request whose body was not read: it is read now, and dropped.

        Closing with unread bytes would reset the connection, and the client would see that
        instead of the answer. There is a bound; beyond it the answer is sent, and what still
        comes is dropped for a moment before the connection is closed.
        """
        self._refusal = refusal
        self.phase = Phase.REFUSING
        self._parts = []
        if self._state.draining:
            self._deadline = time.monotonic() + DRAINING_SECONDS
        limit = DROPPED_BODIES * self._state.options.max_body_bytes
        if self.client.awaits_continue or self.head.body_bytes() > limit:
            self._refuse_and_linger(refusal)  # the body will not come unasked, or not in time

    def _refuse_and_linger(self, refusal: ApiError) -> None:
        if not self.client.is_answering(self):
            return  # others come first; what has arrived of it by then is bounded
        self.answer.keep_alive = False
        self.client.linger()
        self._refuse(refusal)

    def _refuse(self, error: ApiError) -> None:
        """Refuse it before it was in flight."""
        self._state.metrics.refusals[error.code or str(error.status)] += 1
        self.phase = Phase.OVER
        self.answer.error(error)
        record = self.record
        record.outcome, record.error = "refused", error.code or ""
        record.status = self.answer.status
        record.write(self._state.log, 0.0)
        self._state.forget(self)
        self.client.exchange_over(self)

    def _fail(self, error: ApiError, outcome: str, opening: bytes = b"") -> None:
        self.answer.error(error, opening)
        self._over(outcome, error.code or "")

    def _abort(self, reason: str) -> None:
        """Nobody is there to answer."""
        phase = self.phase
        if phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        if phase in {Phase.READING, Phase.REFUSING}:
            self._state.forget(self)
            return
        self._end_attempt()
        self._leave()
        self._over("client_gone", reason)
        if reason == CLIENT_STALLED:
            self.client.abort()

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
        """Count, learn and log, once per request."""
        self.phase = Phase.OVER
        # No circles are left, so that nothing waits for the garbage collector.
        self._attempt = None
        state, record = self._state, self.record
        record.outcome, record.error = outcome, error
        record.status = self.answer.status
        seconds = time.monotonic() - record.started_at
        record.count(state.metrics, seconds)
        if outcome == "ok":
            record.teach(self.model, self.request)
        record.write(state.log, seconds)
        state.landed(self)
        self.client.exchange_over(self)
        self.flight.owner = NOBODY
