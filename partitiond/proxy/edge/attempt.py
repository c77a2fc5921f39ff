"""Makes one attempt on one replica: connects, sends the request, interprets the answer.

An attempt implements `upstream.Receiver`. It reports the first content, the end or a failure to its
exchange. Plain pieces of a stream bypass it (see `upstream`).
"""

import asyncio
import re
import time
from typing import Final

from partitiond.core.dispatch.routing import RouteKind
from partitiond.core.keys.tokens_charged import ObservedOutput, believed, tokens_seen
from partitiond.core.units import KIB
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.live_requests import AnyReplica, LiveRequest
from partitiond.proxy.edge.answer import JSON, Answer
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.engine.events import EventScanner
from partitiond.proxy.engine.framing import WORKS, Head
from partitiond.proxy.engine.upstream import UpstreamConnection
from partitiond.proxy.request.errors import (
    ANSWER_TOO_LARGE,
    ANSWERS_FULL,
    REQUEST_REFUSED,
    ApiError,
    AttemptError,
    route_not_supported,
)
from partitiond.proxy.request.parts import ParsedRequest
from partitiond.proxy.request.requests import DataRoute
from partitiond.proxy.telemetry.record import Record

_TIMEOUT_MESSAGES: Final = {
    "first_token_timeout": "The engine gave no first token in time.",
    "between_tokens_timeout": "The engine stopped in the middle of its answer.",
    "total_timeout": "The request took longer than the proxy allows.",
}
SMALL_ANSWER_BYTES: Final = 16 * KIB
"""Smaller whole answers do not count against the total, as smaller bodies do not."""
MEASURE_SECONDS: Final = 0.25
"""How often the tokens of a stream are counted, for the replica's pace. Chosen."""
TIME_LIMITS: Final = frozenset(_TIMEOUT_MESSAGES)
"""Kinds of failures in which the engine was working on the request and took too long."""
_HEADER_VALUE: Final = re.compile(rb"[\x20-\x7e]*")


class AttemptOwner:
    """A request as its attempts see it; `Exchange` is the only kind.

    Attributes:
        body: for the engine.
        traced: the header with its place in its trace, for the engine; or empty.
    """

    route: DataRoute
    answer: Answer
    record: Record
    live: LiveRequest
    model: LiveModel
    request: ParsedRequest
    body: bytes
    traced: bytes

    def first_content(self, data: bytes) -> None:
        """Begin the answer."""
        raise NotImplementedError

    def finished_stream(self, data: bytes, outcome: str, error: str) -> None:
        """End a proper stream."""
        raise NotImplementedError

    def finished_whole(
        self, status: int, content_type: bytes, body: bytes, headers: bytes = b""
    ) -> None:
        """Send a whole answer: the engine's answer to the request, or its refusal."""
        raise NotImplementedError

    def attempt_failed(self, failure: AttemptError) -> None:
        """Retry on another replica, or send the error to the client."""
        raise NotImplementedError

    def give_up(self, error: ApiError) -> None:
        """End the request with an error for which no replica is to blame."""
        raise NotImplementedError

    def on_bug(self) -> None:
        """End the request after a bug of ours; called inside `except`."""
        raise NotImplementedError


class Attempt:
    """One attempt."""

    __slots__ = (
        "_chunks", "_connecting", "_connection", "_exchange", "_head", "_held", "_hidden_seconds",
        "_measured_at", "_measured_tokens", "_over", "_parts", "_paused", "_reused", "_scanner",
        "_size", "_state", "_writes_at", "replica",
    )  # fmt: skip

    def __init__(self, exchange: AttemptOwner, replica: AnyReplica, state: ProxyState) -> None:
        self._exchange = exchange
        self.replica = replica
        self._state = state
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._head: Head | None = None
        self._scanner: EventScanner | None = None
        self._parts: list[bytes] = []
        self._size = self._held = 0
        self._chunks = 0
        self._paused = False
        self._reused = False
        self._over = False
        self._measured_at = self._writes_at = -1.0
        self._hidden_seconds = 0.0
        self._measured_tokens = 0

    # Calls of the exchange

    def start(self) -> None:
        """Send the request on an open connection, or open one."""
        sent = self._connection = self.replica.answer_to(self)
        if sent is not None:
            if self._paused:
                sent.pause()
            return
        connection = self.replica.reuse(self._exchange.live.placed_at)
        if connection is None:
            self._connect()
        else:
            self._reused = True
            self._send(connection)

    def cancel(self) -> None:
        """Drop the answer; closing the connection makes the engine abort the request."""
        if not self._over:
            self._note_progress()
        self._end()

    def pause(self) -> None:
        """Stop reading, because the client's buffer is full."""
        self._paused = True
        self._measured_tokens = -1  # what comes next says nothing of the engine's steps
        if self._measured_at < 0:
            self.replica.unseen(self._exchange.live)
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read again, because the client has read its buffer."""
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    def progress(self) -> int:
        """Return a number that changes whenever the engine has shown that it works."""
        fast = self._connection.fast_pieces if self._connection is not None else 0
        shown = self._scanner.work_events if self._scanner is not None else 0
        return self._chunks + fast + shown

    def measure(self, now: float, at_least: float = MEASURE_SECONDS) -> None:
        """Tell the replica how fast its tokens come, if the last time is so many seconds ago."""
        since = now - self._measured_at
        if self._measured_at < 0:
            self.replica.wait_for_first_token(self._exchange.live, now)
            return
        if since < at_least or self._paused:
            return
        assert self._scanner is not None
        tokens = self._tokens_of(self._scanner)
        if tokens <= self._measured_tokens:
            return  # a step takes longer
        if self._measured_tokens >= 0:
            live, more = self._exchange.live, tokens - self._measured_tokens
            self.replica.decoded(live, since, more, now)
        self._measured_at, self._measured_tokens = now, tokens

    def time_out(self, kind: str) -> None:
        """Fail, because a time limit has passed."""
        self._fail(timed_out(kind))

    @property
    def sent(self) -> bool:
        """Whether the request was sent to the engine."""
        return self._connection is not None

    @property
    def opening(self) -> bytes:
        """The first event of the stream."""
        return self._scanner.opening if self._scanner is not None else b""

    # Connecting and sending

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(self.replica.connect())
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[UpstreamConnection]") -> None:
        self._connecting = None
        if task.cancelled():
            return
        try:
            error = task.exception()
            if self._over:
                if error is None:
                    task.result().close()
            elif isinstance(error, AttemptError):
                self._fail(error)
            else:
                self._send(task.result())
        except Exception:  # noqa: BLE001 -- logged by the exchange
            self.on_bug()

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        if self._paused:
            connection.pause()
        exchange = self._exchange
        body, request_id = exchange.body, exchange.record.request_id.encode()
        connection.send(
            b"%b%b%b\r\ncontent-length: %d\r\n\r\n%b"
            % (exchange.route.engine_head, request_id, exchange.traced, len(body), body),
            self,
        )

    # Calls of the connection

    def received_note(self, head: Head) -> None:
        """Take the word of another host that the engine works; ignore what else comes first."""
        if head.status == WORKS:
            self._chunks += 1
            self._note_writing(time.monotonic())

    def received_head(self, head: Head) -> None:
        """Take the head; a status that is neither 200 nor a refused request is a failure."""
        self._head = head
        status, exchange = head.status, self._exchange
        if status != 200 and status not in REQUEST_REFUSED:
            self._fail(AttemptError("engine_error", f"The engine answered with status {status}."))
            return
        if status == 200 and exchange.request.stream:
            if not head.content_type.startswith(b"text/event-stream"):
                self._fail(AttemptError("bad_response", "The engine did not answer with a stream."))
                return
            self._scanner = EventScanner(
                exchange.route.dialect,
                hide_usage=exchange.route.tells_usage and not exchange.request.wants_usage,
            )
        else:
            self._hold(head.length or 0)

    def received_body(self, data: bytes) -> None:
        """Take a piece of the body, and relay the events that may be relayed."""
        if self._over:
            return
        scanner = self._scanner
        if scanner is None:
            self._parts.append(data)
            self._size += len(data)
            self._hold(self._size)
            return
        if scanner.held_bytes < self._held:  # sent on with the last piece, and read by the client
            self._release_answer()
        try:
            block = scanner.feed(data)
        except AttemptError as failure:
            self._fail(failure)
            return
        if not self._hold(scanner.held_bytes):
            return
        answer = self._exchange.answer
        if self._measured_at < 0 and scanner.work_events:
            self._note_work(scanner)
        if scanner.done:
            self._end_stream(scanner, block)
            self._release_answer()
            return
        if block:
            self._chunks += 1
            if answer.streaming:
                answer.piece(block)
            else:
                self._exchange.first_content(block)
        if scanner.is_clean and answer.chunked and self._connection is not None:
            self._connection.open_fast_way(answer.write, self._exchange.route.dialect.markers)

    def _note_work(self, scanner: EventScanner) -> None:
        """Note the first token, which the engine may hold back, and the first content."""
        now = time.monotonic()
        self._note_writing(now)
        self._hidden_seconds = now - self._writes_at
        if scanner.started:
            self._measured_at, self._measured_tokens = now, self._tokens_of(scanner)

    def _note_writing(self, now: float) -> None:
        if self._writes_at < 0:
            self._writes_at = now
            self.replica.first_token(self._exchange.live, now)

    def _hold(self, size: int) -> bool:
        """Count a whole answer or events of that size; large ones are bounded, alone and together.

        Returns:
            Whether the attempt goes on.
        """
        if size > self._state.options.max_response_bytes:
            self._exchange.give_up(ANSWER_TOO_LARGE)
        elif size > max(self._held, SMALL_ANSWER_BYTES):
            if self._state.answers.take(self._exchange.record.caller, size - self._held):
                self._held = size
            else:
                self._exchange.give_up(ANSWERS_FULL)
        return not self._over

    def received_end(self) -> None:
        """Take the end of the answer."""
        if self._over:
            return
        if self._scanner is not None:
            self._fail(AttemptError("truncated", "The engine's stream broke off."))
            return
        assert self._head is not None
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._head.status == 200:
            self._end_whole(self._head, body)
        else:
            self._end_refused(self._head, body)

    def received_failure(self, failure: AttemptError) -> None:
        """Fail because the connection broke, or send the request once more.

        An engine may close an idle connection just as we use it again. If nothing came back, the
        request is sent once more on a new connection, which does not count as a retry.
        """
        if self._over:
            return
        idle_end = self._reused and failure.kind == "reset" and failure.no_byte
        again = self.replica.look_for_death(self._state.quarantine, idle_end=idle_end)
        if idle_end and not self.replica.is_dead:
            self._reused = False
            self._connection = None
            self._connect()
        elif again and not self._exchange.answer.streaming:
            asyncio.get_running_loop().call_later(again, self._look_again, failure)
        else:
            self._fail(failure)

    def _look_again(self, failure: AttemptError) -> None:
        """Fail; the process may have closed its listener just after the connection."""
        if self._over:
            return
        try:
            self.replica.look_for_death(self._state.quarantine, idle_end=False)
            self._fail(failure)
        except Exception:  # noqa: BLE001 -- logged by the exchange
            self.on_bug()

    def on_bug(self) -> None:
        """End after a bug of ours; call it inside `except`."""
        self._over = True
        self._exchange.on_bug()

    # Ends

    def _end_stream(self, scanner: EventScanner, block: bytes) -> None:
        exchange, dialect = self._exchange, self._exchange.route.dialect
        if scanner.error and not scanner.started:
            status = dialect.error_status(scanner.error)
            if status is None:
                self._fail(
                    AttemptError("engine_error", "The engine failed before its first token.")
                )
                return
            payload = scanner.error.partition(b"data:")[2].strip()
            body = dialect.refusal_body(status, payload)
            self._close_books("invalid")
            exchange.finished_whole(status, JSON, body)
            return
        self._chunks += 1
        if scanner.error:
            # The engine has sent the error in the right dialect; add only the end of the stream.
            self._close_books("failed")
            exchange.finished_stream(block + dialect.closing(), "failed", "engine_error")
        else:
            self._close_books("ok")
            exchange.finished_stream(block, "ok", "")

    def _end_whole(self, head: Head, body: bytes) -> None:
        if head.content_type.startswith(JSON) and not (
            body.startswith((b"{", b"[")) and body.rstrip().endswith((b"}", b"]"))
        ):
            self._fail(AttemptError("bad_response", "The engine's answer is not JSON."))
            return
        if not head.exact:
            self._fail(AttemptError("truncated", "The engine's answer is not complete."))
            return
        exchange = self._exchange
        if self._exchange.route.kind is not RouteKind.TOKENIZE:
            told = self._exchange.route.dialect.usage_of(head.metadata or body)
            if told is not None and told[0] is not None and told[1] is not None:
                exchange.record.usage = believed((told[0], told[1]), exchange.live.cost)
        headers = b""
        if head.metadata and _HEADER_VALUE.fullmatch(head.metadata):
            headers = b"metadata: " + head.metadata + b"\r\n"
        self._close_books("ok")
        exchange.finished_whole(200, head.content_type or JSON, body, headers)
        self._release_answer()  # what its client has not read, its connection counts by now

    def _end_refused(self, head: Head, body: bytes) -> None:
        """Pass on the engine's own refusal of the request."""
        status, route = head.status, self._exchange.route
        if status == 404:
            if b'"detail"' in body:  # from its router: this kind of model has no such route
                body = route_not_supported(route.path).body()
            elif b'"invalid_request_error"' not in body and b'"route_not_supported"' not in body:
                self._fail(AttemptError("engine_error", "The engine does not know its own model."))
                return
        self._close_books("invalid")
        self._exchange.finished_whole(status, JSON, route.dialect.refusal_body(status, body))
        self._release_answer()

    def _close_books(self, outcome: str) -> None:
        """End the attempt: note its progress, and give the connection back."""
        if outcome == "ok":
            self.measure(time.monotonic(), 0.0)
        self._over = True
        self._note_progress()
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._paused:  # over a hop, an answer may come in one read with its place
                connection.resume()
            self.replica.release(connection, time.monotonic())

    def _note_progress(self) -> None:
        exchange, connection, scanner = self._exchange, self._connection, self._scanner
        record = exchange.record
        record.at_work = self.sent
        if self._measured_at < 0 <= self._writes_at:
            self._hidden_seconds = time.monotonic() - self._writes_at
        if scanner is not None:
            record.seen = self._seen_of(scanner)
            usage = scanner.usage
            record.usage = None if usage is None else believed(usage, exchange.live.cost)
        elif self._writes_at >= 0:
            record.seen = ObservedOutput(hidden_seconds=self._hidden_seconds)
        elif connection is not None and not exchange.request.stream:
            record.seen = ObservedOutput(hidden_seconds=time.monotonic() - exchange.live.placed_at)

    def _tokens_of(self, scanner: EventScanner) -> int:
        """Return the output tokens that the stream has shown."""
        exchange = self._exchange
        per_byte = exchange.model.figures.of(exchange.record.key_id).text.value
        return tokens_seen(self._seen_of(scanner), exchange.live.cost, per_byte)

    def _seen_of(self, scanner: EventScanner) -> ObservedOutput:
        """Return what the stream has shown, without the prompts that its text begins with. A piece
        on the fast way counts as one event, as engines write them.
        """
        connection, prompt = self._connection, scanner.prompt_tokens
        events, text = scanner.output_events, scanner.text_bytes
        if connection is not None:
            events += connection.fast_pieces
            text += connection.fast_bytes - connection.fast_pieces * scanner.frame_bytes
        if prompt is not None:
            prompt = believed((prompt, 0), self._exchange.live.cost)[0]
        text = max(0, text - self._exchange.request.size.echoed_bytes)
        return ObservedOutput(events, prompt, text, self._hidden_seconds)

    def _fail(self, failure: AttemptError) -> None:
        if self._over:
            return
        self._note_progress()
        self._end()
        self._exchange.attempt_failed(failure)

    def _end(self) -> None:
        self._over = True
        self._release_answer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()

    def _release_answer(self) -> None:
        if self._held:
            self._state.answers.add(self._exchange.record.caller, -self._held)
        self._parts, self._held = [], 0


def timed_out(kind: str) -> AttemptError:
    """Return the failure for a time limit that has passed."""
    return AttemptError(kind, _TIMEOUT_MESSAGES[kind])
