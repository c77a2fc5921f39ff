"""What is remembered of a request when it ended: metrics, estimates, one log line."""

import time
from typing import TYPE_CHECKING, Final

import msgspec

from partitiond.proxy.dialects import Usage
from partitiond.proxy.logs import LogFile, now_text
from partitiond.proxy.metrics import ProxyMetrics

if TYPE_CHECKING:
    from partitiond.proxy.live import LiveModel
    from partitiond.proxy.requests import ParsedRequest

_encode: Final = msgspec.json.Encoder().encode


class Record:
    """How a request went.

    Attributes:
        outcome: ok, failed, refused, invalid or client_gone.
        error: code of the error, or empty.
        replica_id: the last replica tried.
        ttft_seconds: of a stream, or None.
        queue_seconds: until the first replica was found, or None.
        service_seconds: on the last replica, where the engine ended the answer, or None.
        chunks, events: pieces sent to the client, and events in them.
        usage: (prompt tokens, output tokens) as the engine reported, or None.
    """

    __slots__ = (
        "attempts", "chunks", "error", "events", "key_id", "model", "outcome", "queue_seconds",
        "replica_id", "request_id", "route", "service_seconds", "started_at", "status", "stream",
        "ttft_seconds", "usage",
    )  # fmt: skip

    def __init__(self, route: str, request_id: str) -> None:
        self.route = route
        self.request_id = request_id
        self.started_at = 0.0
        self.status = 0
        self.outcome = "failed"
        self.error = ""
        self.model = ""
        self.key_id = ""
        self.replica_id = ""
        self.stream = False
        self.attempts = 0
        self.ttft_seconds: float | None = None
        self.queue_seconds: float | None = None
        self.service_seconds: float | None = None
        self.chunks = 0
        self.events = 0
        self.usage: Usage | None = None

    def output_tokens(self) -> int:
        """By usage; of a stream that told none, its events."""
        return self.usage[1] if self.usage is not None else self.events

    def count(self, metrics: ProxyMetrics, seconds: float) -> None:
        """Add it to its model's numbers."""
        model = metrics.model(self.model)
        model.outcomes[self.outcome] += 1
        if self.outcome == "refused":
            metrics.refusals[self.error] += 1
        if self.queue_seconds is not None:
            model.queue_seconds.observe(self.queue_seconds)
        if self.ttft_seconds is not None:
            model.ttft_seconds.observe(self.ttft_seconds)
        if self.outcome == "ok":
            model.e2e_seconds.observe(seconds)
        model.chunks += self.chunks
        if self.usage is not None:
            model.prompt_tokens += self.usage[0]
        model.output_tokens += self.output_tokens()
        if self.attempts > 1:
            model.retries += self.attempts - 1

    def teach(self, model: "LiveModel", request: "ParsedRequest") -> None:
        """Correct the estimates by what the engine reported; without usage, by counted events."""
        size = request.size
        if self.usage is not None and size.prompt_bytes:
            model.tokens_per_byte = model.tokens_per_byte.observe(size.prompt_bytes, self.usage[0])
        if request.sequences:
            model.output_p90 = model.output_p90.observe(self.output_tokens() // request.sequences)
            if self.service_seconds is not None:
                model.service = model.service.observe(self.service_seconds)

    def write(self, log: LogFile, seconds: float) -> None:
        """One line, without bodies and without keys."""
        line: dict[str, object] = {
            "at": now_text(),
            "event": "request",
            "request_id": self.request_id,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
        }
        if self.error:
            line["error"] = self.error
        if self.key_id:
            line["key"] = self.key_id
        if self.model:
            line |= {
                "model": self.model,
                "replica": self.replica_id,
                "stream": self.stream,
                "attempts": self.attempts,
                "seconds": round(seconds, 6),
            }
        for name in ("queue_seconds", "ttft_seconds"):
            value = getattr(self, name)
            if value is not None:
                line[name] = round(value, 6)
        if self.chunks:
            line["chunks"] = self.chunks
        if self.usage is not None:
            line["usage"] = self.usage
        log.write(_encode(line).decode())


def seconds_since(started_at: float) -> float:
    """By the monotonic clock."""
    return time.monotonic() - started_at
