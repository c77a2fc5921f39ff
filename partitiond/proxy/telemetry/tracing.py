"""Traces requests: a span for each, passed on to the engine, exported as OTLP over HTTP in JSON.

If a client sends a `traceparent` (W3C Trace Context), the request belongs to the client's trace,
and the client decides whether the request is recorded. Otherwise a share of the requests is
recorded, chosen by the trace's id as in OpenTelemetry. The engine gets our span as its parent.
A span is built once, when the request has ended, and sent with others by a thread. Requests
never wait for a collector: a collector that is slow or gone only costs spans, which are counted.

OpenTelemetry's SDK is not used: it costs several times as much as a request costs here, and the
format is plain JSON.
"""

import asyncio
import collections
import http.client
import json
import logging
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import partitiond

if TYPE_CHECKING:
    from partitiond.proxy.dispatch.flights import Flight
    from partitiond.proxy.telemetry.record import Record

_logger = logging.getLogger("partitiond.proxy")

SEND_SECONDS: Final = 2.0
"""How long spans wait for others to fill a batch."""
BATCH: Final = 512
"""Maximum number of spans in one message."""
MOST_WAITING: Final = 8192
"""Maximum number of spans that wait for the collector; more are dropped and counted. Chosen."""
POST_SECONDS: Final = 5.0
"""A collector that hangs holds back spans for this long, never a request."""
COMPLAINT_SECONDS: Final = 60.0
"""Minimum interval between two log lines about a collector that is gone."""

_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SERVER: Final = 2
_ERROR: Final = 2
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}

Span = dict[str, Any]


class Trace:
    """One request's place in its trace.

    Attributes:
        trace_id, parent_id: in hexadecimal; parent_id is empty if the trace begins here.
        span_id: of the request, the parent of the engine's spans.
        sampled: whether the trace is recorded.
    """

    __slots__ = ("parent_id", "sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, parent_id: str, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.span_id = f"{random.getrandbits(64) or 1:016x}"

    @property
    def header(self) -> bytes:
        """The `traceparent` header for the engine, as the continuation of its request's head."""
        flags = "01" if self.sampled else "00"
        return f"\r\ntraceparent: 00-{self.trace_id}-{self.span_id}-{flags}".encode()


class Tracer:
    """All traces of one process.

    Attributes:
        spans: how many were sent, dropped (too many waited) and failed (no collector took them).
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        self._endpoint = endpoint
        self._bound = round(ratio * 2**64)
        self._waiting: collections.deque[Span] = collections.deque()
        self._sending: asyncio.Task[None] | None = None
        self._complained_at = float("-inf")
        self.spans: collections.Counter[str] = collections.Counter()

    def begin(self, given: bytes) -> Trace:
        """Begin the trace of a request, from the `traceparent` that the client sent."""
        match = _TRACEPARENT.fullmatch(given.strip()) if given else None
        if match is not None:
            trace_id, parent_id = match[1].decode(), match[2].decode()
            if trace_id != _NO_TRACE and parent_id != _NO_SPAN:
                return Trace(trace_id, parent_id, sampled=bool(int(match[3], 16) & 1))
        drawn = random.getrandbits(128) or 1
        return Trace(f"{drawn:032x}", "", sampled=drawn & (2**64 - 1) < self._bound)

    def ended(self, trace: Trace, record: "Record", flight: "Flight", seconds: float) -> None:
        """Queue the span of a request that has ended; call it only for sampled traces."""
        if len(self._waiting) >= MOST_WAITING:
            self.spans["dropped"] += 1
            return
        self._waiting.append(span_of(trace, record, flight, seconds, time.time()))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_on())

    async def _send_on(self) -> None:
        """Send the waiting spans, then end; the next span starts a new task."""
        try:
            while self._waiting:
                if len(self._waiting) < BATCH:
                    await asyncio.sleep(SEND_SECONDS)
                await self._send(self._take())
        finally:
            self._sending = None

    def _take(self) -> list[Span]:
        return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    async def _send(self, spans: list[Span]) -> None:
        problem = await asyncio.to_thread(self._post, spans)
        if not problem:
            self.spans["sent"] += len(spans)
            return
        self.spans["failed"] += len(spans)
        now = time.monotonic()
        if now - self._complained_at >= COMPLAINT_SECONDS:
            self._complained_at = now
            _logger.warning("traces cannot be sent to %s: %s", self._endpoint, problem)

    def _post(self, spans: list[Span]) -> str:
        """Send the spans; return what went wrong, or empty text. Runs in a thread."""
        request = urllib.request.Request(  # noqa: S310 -- http or https, by the settings
            self._endpoint,
            json.dumps(message_of(spans), separators=(",", ":")).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=POST_SECONDS) as answer:  # noqa: S310
                answer.read()
        except http.client.HTTPException as error:  # for example a collector's gRPC port
            return f"it answers no HTTP ({error!r})"
        except (urllib.error.URLError, OSError, ValueError) as error:
            return str(error)
        return ""

    async def close(self) -> None:
        """Send the remaining spans, without waiting for more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        while self._waiting:
            before = self.spans["failed"]
            await self._send(self._take())
            if self.spans["failed"] > before:
                break  # the collector is gone


def span_of(trace: Trace, record: "Record", flight: "Flight", seconds: float, now: float) -> Span:
    """Build the span of a request that has ended.

    Args:
        trace: the request's place in its trace.
        record: the outcome of the request.
        flight: the times of the request.
        seconds: from the last byte of the request to its end.
        now: Unix seconds.
    """
    begin = now - seconds
    operation = _OPERATIONS.get(record.route, record.route.strip("/"))
    attributes: dict[str, object] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "partitiond",
        "gen_ai.request.model": record.model,
        "http.request.method": "POST",
        "url.path": record.route,
        "http.response.status_code": record.status,
        "partitiond.request_id": record.request_id,
        "partitiond.key_id": record.key_id,
        "partitiond.outcome": record.outcome,
        "partitiond.attempts": record.attempts,
        "partitiond.replica": record.replica_id,
        "error.type": record.error,
    }
    if record.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = record.usage[0]
        attributes["gen_ai.usage.output_tokens"] = record.usage[1]
    events = []
    if flight.attempts:
        placed_at = begin + (flight.placed_at - flight.started_at)
        events.append({"timeUnixNano": _nanos(placed_at), "name": "placed"})
    if record.ttft_seconds is not None:
        first_at = begin + record.ttft_seconds
        events.append({"timeUnixNano": _nanos(first_at), "name": "first_token"})
    span: Span = {
        "traceId": trace.trace_id,
        "spanId": trace.span_id,
        "name": f"{operation} {record.model}",
        "kind": _SERVER,
        "startTimeUnixNano": _nanos(begin),
        "endTimeUnixNano": _nanos(now),
        "attributes": _attributes(attributes),
        "events": events,
    }
    if trace.parent_id:
        span["parentSpanId"] = trace.parent_id
    if record.outcome == "failed":
        span["status"] = {"code": _ERROR, "message": record.error}
    return span


def _attributes(values: Mapping[str, object]) -> list[dict[str, object]]:
    return [
        {"key": key, "value": _value(value)}
        for key, value in values.items()
        if value not in {"", None}
    ]


def _value(value: object) -> dict[str, object]:
    """Encode a value as OTLP's JSON requires: whole numbers are text."""
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}


def _nanos(seconds: float) -> str:
    return str(round(seconds * 1e9))


def message_of(spans: list[Span]) -> dict[str, object]:
    """Build one OTLP message."""
    resource = {"service.name": "partitiond", "service.version": partitiond.__version__}
    scope = {"name": "partitiond.proxy", "version": partitiond.__version__}
    told = {
        "resource": {"attributes": _attributes(resource)},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }
    return {"resourceSpans": [told]}
