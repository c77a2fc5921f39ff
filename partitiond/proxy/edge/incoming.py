"""Checks the head of an incoming request, and reads its body, or refuses and drops it.

This is the first half of an `Exchange`; the second half begins once the body is complete.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.units import KIB
from partitiond.proxy.edge.answer import ClientAnswer, ClientSide
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.known_heads import KnownHead
from partitiond.proxy.edge.serving import Phase, Serving
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.keys.auth import ANYONE, Caller
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.record import Record

DROPPED_BODIES: Final = 4
"""A refused body is read and dropped up to this many times the allowed size. Chosen."""
SMALL_BODY_BYTES: Final = 16 * KIB
"""Smaller bodies do not count against the total. Most prompts are smaller, so large bodies cannot
keep them out. With 10,000 connections small bodies take 160 MiB at most. Those that wait behind
another request of their connection do count, since one read may bring several. Chosen."""
DRAINING_SECONDS: Final = 0.5
"""Time for a refused body during a shutdown: enough for a body that is already being sent."""


class RequestClient(ClientSide):
    """The connection that a request came on; `DataProtocol` is the only kind.

    Attributes:
        address: the client's address, or empty.
        awaits_continue: the client sends its body only after `100 Continue`.
        write_paused: the client does not read at the moment.
    """

    state: ProxyState
    address: str
    awaits_continue: bool
    write_paused: bool

    def is_answering(self, exchange: "Incoming") -> bool:
        """Whether it is this request's turn to send."""
        raise NotImplementedError

    def exchange_over(self, exchange: "Incoming") -> None:
        """Go on after a request that has sent its answer, or whose client has left."""
        raise NotImplementedError

    def linger(self) -> None:
        """Take no further request: drop incoming bytes, then close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close without sending the bytes that the client does not read."""
        raise NotImplementedError


class Incoming(Serving):
    """A request until its body is complete (see the module).

    Attributes:
        http: its answer, which is also `answer`.
        body: the received body once it is complete; later the body for the engine.
        body_done: the request's last byte has arrived.
    """

    def __init__(
        self, client: RequestClient, route: DataRoute, head: RequestHead, *, keep_alive: bool,
        chunked: bool, known: KnownHead | None = None,
    ) -> None:  # fmt: skip
        request_id = head.request_id()
        answer = ClientAnswer(
            client, route.dialect, request_id, keep_alive=keep_alive, chunked=chunked
        )
        state = client.state
        super().__init__(state, route, answer, Record(route.path, request_id))
        self.http = answer
        self.client = client
        self.head = head
        self._known = known
        if state.cors is not None:
            answer.extra = state.cors.lines(head.origin)
        self.record.client = (
            client.address
            if state.trusted_proxies is None
            else state.client_address(client.address, head.forwarded_for)
        )
        self.body_done = False
        self._parts: list[bytes] = []
        self._size = 0
        self._caller: Caller = ANYONE
        self._refusal: ApiError | None = None

    def start(self) -> None:
        """Begin the second half: the request is complete."""
        raise NotImplementedError

    def begin(self) -> None:
        """Check the head, and refuse if that can be decided before the body is read."""
        refusal = self._admit()
        if refusal is not None:
            self._refuse_unread(refusal)

    def received(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(data)
        if self.phase is Phase.READING:
            self._parts.append(data)
            if self._size > self._state.options.max_body_bytes:
                self._refuse_unread(errors.body_too_large(self._state.options.max_body_bytes))
            elif self._counts() and not self._state.hold_body(self, self._size):
                self._refuse_unread(errors.BODIES_FULL)
        elif self.phase is Phase.REFUSING and self._refusal is not None:
            limit = DROPPED_BODIES * self._state.options.max_body_bytes
            if self._size > limit:
                self._refuse_and_linger(self._refusal)

    def _counts(self) -> bool:
        """Whether the body counts against the total of all bodies."""
        return self._size > SMALL_BODY_BYTES or not self.client.is_answering(self)

    def received_all(self) -> None:
        """Take the end of the body: start the request, or refuse it."""
        self.body_done = True
        if self.phase is Phase.READING:
            parts = self._parts
            self.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
            self.start()
        elif self.phase is Phase.REFUSING and self._refusal is not None:
            self._refuse(self._refusal)

    def body_is_broken(self, error: ApiError) -> bool:
        """Refuse a body without a recognisable end; return False if it is too late for that."""
        if self.phase not in {Phase.READING, Phase.REFUSING}:
            return False
        if not self.client.is_answering(self):
            return False
        self._refuse_and_linger(self._refusal or error)
        return True

    def await_body(self, now: float) -> None:
        """Start the time limit for the rest of the body."""
        if self._deadline == math.inf:
            self._deadline = now + self._state.options.client_timeout_seconds

    def stop_reading(self, now: float) -> None:
        """Refuse the request if its body is incomplete, because the proxy shuts down."""
        if self.phase is Phase.READING:
            self._refusal = errors.SHUTTING_DOWN
            self.phase = Phase.REFUSING
            self._parts = []
            self._state.release_body(self)
        self._deadline = min(self._deadline, now + DRAINING_SECONDS)

    def sweep(self, now: float) -> None:
        """Check whether the body took too long."""
        if self.phase is not Phase.READING and self.phase is not Phase.REFUSING:
            super().sweep(now)
        elif now > self._deadline:
            self._refuse_and_linger(self._refusal or errors.BODY_TOO_SLOW)

    def client_gone(self) -> None:
        """End the request, in any phase, because the client has left."""
        if self.phase is Phase.READING or self.phase is Phase.REFUSING:
            self.phase = Phase.OVER
            self._state.forget(self)
        else:
            super().client_gone()

    def abort_client(self) -> None:
        """Close the client's connection without sending the bytes that it does not read."""
        self.client.abort()

    def answered(self) -> None:
        """Go on with the client's next request."""
        self.client.exchange_over(self)

    def apologise(self) -> None:
        """End the request with an error after a bug of ours, if it has not ended."""
        if self.phase is Phase.OVER or self in self._state.flights:
            super().apologise()
        else:
            self._refuse(errors.INTERNAL)

    def ways_out(self) -> list[Callable[[], object]]:
        """Return the clean-up actions, each independent of the others."""
        return [*super().ways_out(), self._forget]

    def _forget(self) -> None:
        self._state.forget(self)

    def _admit(self) -> ApiError | None:
        state = self._state
        if state.draining:
            return errors.SHUTTING_DOWN
        if state.table.version == 0:
            return errors.NO_TABLE  # so it is not known either whether keys are required
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

    def _refuse_unread(self, refusal: ApiError) -> None:
        """Refuse a request whose body was not read; the body is then read and dropped.

        Closing with unread bytes would reset the connection, and the client would see the reset
        instead of the answer. If the body is beyond a bound, the answer is sent at once, and
        further bytes are dropped for a moment before the connection is closed.
        """
        self._refusal = refusal
        self.phase = Phase.REFUSING
        self._parts = []
        self._state.release_body(self)
        if self._state.draining:
            self._deadline = time.monotonic() + DRAINING_SECONDS
        limit = DROPPED_BODIES * self._state.options.max_body_bytes
        if self.client.awaits_continue or self.head.body_bytes() > limit:
            self._refuse_and_linger(refusal)  # the body comes only on request, or not in time

    def _refuse_and_linger(self, refusal: ApiError) -> None:
        if not self.client.is_answering(self):
            return  # other requests come first; the bytes that arrive by then are bounded
        self.http.keep_alive = False
        self.client.linger()
        self._refuse(refusal)

    def _refuse(self, error: ApiError) -> None:
        """Refuse the request before it is in flight."""
        self._state.metrics.refusals[error.code or str(error.status)] += 1
        self.phase = Phase.OVER
        self.answer.error(error)
        record = self.record
        record.outcome, record.error = "refused", error.code or ""
        record.status = self.answer.status
        record.write(self._state.log, 0.0)
        self._state.forget(self)
        self.client.exchange_over(self)
