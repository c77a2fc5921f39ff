"""One attempt on one replica: send, wait, relay, within the time limits.

Per piece of a stream there is no task and no timer: one timer per attempt looks now and then
whether a limit was passed.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Final

from partitiond.proxy.answer import JSON_HEADER, Call
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.errors import DONE_EVENT, AttemptError, in_openai_shape
from partitiond.proxy.events import EventScanner, find_usage
from partitiond.proxy.live import LiveReplica
from partitiond.proxy.upstream import UpstreamConnection

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
USAGE_TAIL_BYTES: Final = 2048
"""Engines put `usage` near the end of an answer; the rest is not searched."""


CLIENT_STALLED: Final = "client_stalled"
"""The limit while the client has to take something."""


class TimeLimit:
    """At most one timer per attempt, re-armed only when it fires; passing it costs a call."""

    __slots__ = ("_deadline", "_kind", "_loop", "_passed", "_timer", "_total_at")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        total_at: float,
        passed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._total_at = total_at
        self._passed = passed
        self._kind = ""
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, kind: str, seconds: float) -> None:
        """From now on this limit applies (and the total one always does)."""
        self._kind = kind
        self._deadline = self._loop.time() + seconds
        due = min(self._deadline, self._total_at)
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._look)

    def clear(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        due = min(self._deadline, self._total_at)
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self._timer = None
        # While the client is waited for, nobody reads the engine's side: failing that would leave
        # the place taken, so a stalled client is let go whichever limit was passed.
        total = self._total_at <= now and self._kind != CLIENT_STALLED
        self._passed("total_timeout" if total else self._kind)


_TIMEOUT_MESSAGES: Final = {
    "first_token_timeout": "The engine gave no first token in time.",
    "between_tokens_timeout": "The engine stopped in the middle of its answer.",
    "total_timeout": "The request took longer than the proxy allows.",
}


class Attempt:
    """One attempt on one replica."""

    def __init__(self, options: ProxyOptions, call: Call, replica: LiveReplica) -> None:
        self._options = options
        self._call = call
        self._flight = call.flight
        self._replica = replica
        self._request = call.request
        self._answer = call.answer
        self._result = call.result
        self._loop = asyncio.get_running_loop()
        self._connection: UpstreamConnection | None = None
        self._limit = TimeLimit(
            self._loop, call.flight.started_at + options.total_timeout_seconds, self._limit_passed
        )

    async def run(self) -> None:
        """Relay the answer to its end. Raises AttemptError."""
        finished = False
        body = self._request.body_for(self._call.model.route.served_name, self._call.body)
        try:
            connection = await self._open(body)
            self._check_status(connection)
            if connection.status == 200 and self._is_stream(connection):
                await self._relay_stream(connection)
            else:
                await self._relay_whole(connection)
            finished = True
        finally:
            self._limit.clear()
            if self._connection is not None:
                if finished:
                    self._replica.pool.release(self._connection)
                else:
                    self._connection.close()

    async def _open(self, body: bytes) -> UpstreamConnection:
        """Send the request and wait for the answer's head.

        An engine may close an idle connection just as we use it again: when nothing came back,
        the request is sent once more on a fresh connection. That is no retry.
        """
        head = self._head(len(body))
        reused = self._replica.pool.reuse()
        if reused is not None:
            try:
                return await self._exchange(reused, head, body)
            except AttemptError as failure:
                if not (failure.kind == "reset" and failure.no_byte):
                    raise
        return await self._exchange(await self._replica.pool.connect(), head, body)

    async def _exchange(
        self, connection: UpstreamConnection, head: bytes, body: bytes
    ) -> UpstreamConnection:
        self._connection = connection
        options = self._options
        if self._request.stream:
            self._limit.set("first_token_timeout", options.first_token_timeout_seconds)
        else:
            self._limit.set("total_timeout", options.total_timeout_seconds)
        connection.send(head, body)
        await connection.wait_head()
        return connection

    def _head(self, length: int) -> bytes:
        path = "/v1/chat/completions" if self._request.chat else "/v1/completions"
        return (
            f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            f"x-request-id: {self._flight.request_id}\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    def _check_status(self, connection: UpstreamConnection) -> None:
        """Anything but an answer or a complaint about the request itself is a failure."""
        status = connection.status
        if status == 200 or (400 <= status < 500 and status not in {404, 405, 408, 429}):
            return
        raise AttemptError("engine_error", f"The engine answered with status {status}.")

    def _is_stream(self, connection: UpstreamConnection) -> bool:
        if not self._request.stream:
            return False
        if connection.content_type.startswith(b"text/event-stream"):
            return True
        raise AttemptError("bad_response", "The engine did not answer with a stream.")

    async def _relay_stream(self, connection: UpstreamConnection) -> None:
        scanner = EventScanner(self._options.max_event_bytes)
        between = self._options.between_tokens_timeout_seconds
        client = self._options.client_timeout_seconds
        answer, limit = self._answer, self._limit
        chunks = 0
        try:
            while True:
                data = await connection.read()
                if not data:
                    raise AttemptError("truncated", "The engine's stream broke off.")
                block = scanner.feed(data)
                if not block:
                    continue
                # The head goes to the client, too.
                limit.set(CLIENT_STALLED, client)
                if not answer.started:
                    if scanner.error and not scanner.started:
                        await self._fail_before_content(scanner.error)
                        return
                    await self._start_stream()
                chunks += 1
                if scanner.done:
                    break
                await answer.piece(block)
                limit.set("between_tokens_timeout", between)
        finally:
            self._result.chunks, self._result.events = chunks, scanner.events
        await self._end_stream(scanner, block)

    async def _start_stream(self) -> None:
        self._result.ttft_seconds = time.monotonic() - self._flight.started_at
        replica = (b"x-partitiond-replica", self._replica.replica_id.encode())
        await self._answer.start(200, [*_STREAM_HEADERS, replica])

    async def _fail_before_content(self, error: bytes) -> None:
        """An error event came first: the request's own fault, or a failure like any other."""
        status = _client_fault(error)
        if status is None:
            raise AttemptError("engine_error", "The engine failed before its first token.")
        self._result.outcome, self._result.error = "invalid", "engine_rejected"
        self._finish()
        await self._answer.whole(status, in_openai_shape(status, error))

    def _finish(self) -> None:
        """The engine is done with it: give the place back before the client took everything."""
        self._result.service_seconds = time.monotonic() - self._flight.placed_at
        self._flight.leave()
        self._limit.set(CLIENT_STALLED, self._options.client_timeout_seconds)

    async def _end_stream(self, scanner: EventScanner, block: bytes) -> None:
        self._result.usage = scanner.usage()
        if scanner.error:
            # The engine says so itself, in the right dialect; only its end is added here.
            self._replica.failed()
            self._result.outcome, self._result.error = "failed", "engine_error"
            self._finish()
            await self._answer.end(block + DONE_EVENT)
            return
        self._replica.succeeded()
        self._result.outcome = "ok"
        self._finish()
        await self._answer.end(block)

    async def _relay_whole(self, connection: UpstreamConnection) -> None:
        body = await connection.read_all(self._options.max_response_bytes)
        if connection.status == 200:
            if not (body.startswith(b"{") and body.rstrip().endswith(b"}")):
                raise AttemptError("bad_response", "The engine's answer is not JSON.")
            self._result.outcome = "ok"
            self._result.usage = find_usage(body[-USAGE_TAIL_BYTES:])
        else:
            body = in_openai_shape(connection.status, body)
            self._result.outcome, self._result.error = "invalid", "engine_rejected"
        self._replica.succeeded()
        self._finish()
        replica = (b"x-partitiond-replica", self._replica.replica_id.encode())
        await self._answer.whole(connection.status, body, [JSON_HEADER, replica])

    def _limit_passed(self, kind: str) -> None:
        if kind == CLIENT_STALLED:
            self._flight.abort(kind)
        elif self._connection is not None:
            self._connection.fail(AttemptError(kind, _TIMEOUT_MESSAGES[kind]))


def _client_fault(error: bytes) -> int | None:
    """The status of an engine's error event when it blames the request, else None."""
    try:
        code = json.loads(error)["error"]["code"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return code if type(code) is int and 400 <= code < 500 else None
