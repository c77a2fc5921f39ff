"""What is remembered of a request when it ended: metrics, estimates, one log line."""

import functools
import json
from typing import TYPE_CHECKING

from partitiond.proxy.dialects import Usage
from partitiond.proxy.logs import LogFile, now_text
from partitiond.proxy.metrics import ProxyMetrics

if TYPE_CHECKING:
    from partitiond.proxy.live import LiveModel
    from partitiond.proxy.request_parts import ParsedRequest


class Record:
    """How a request went.

    Attributes:
        outcome: ok, failed, refused, invalid or client_gone.
        error: code of the error, or empty.
        client: address of who sent the request, or empty.
        replica_id: the last replica tried.
        ttft_seconds: of a stream, or None.
        queue_seconds: until the first replica was found, or None.
        service_seconds: on the last replica, where the engine ended the answer, or None.
        chunks, events: pieces sent to the client, and events in them.
        usage: (prompt tokens, output tokens) as the engine reported, or None.
    """

    # Defaults of the class: most requests set half of them, and each costs when it is set.
    started_at = 0.0
    status = 0
    outcome = "failed"
    error = ""
    client = ""
    model = ""
    key_id = ""
    replica_id = ""
    stream = False
    attempts = 0
    ttft_seconds: float | None = None
    queue_seconds: float | None = None
    service_seconds: float | None = None
    chunks = 0
    events = 0
    usage: Usage | None = None

    def __init__(self, route: str, request_id: str) -> None:
        self.route = route
        self.request_id = request_id

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

    def teach(self, model: "LiveModel", request: "ParsedRequest", now: float) -> None:
        """Correct the estimates by what the engine reported; without usage, by counted events."""
        size = request.size
        if self.usage is not None and size.prompt_bytes:
            model.tokens_per_byte = model.tokens_per_byte.observe(size.prompt_bytes, self.usage[0])
        if request.sequences:
            model.output_p90 = model.output_p90.observe(self.output_tokens() // request.sequences)
            seconds = self.service_seconds
            if seconds is not None:
                model.service = model.service.observe(seconds)
                replica = model.replicas.get(self.replica_id)
                if replica is not None and len(model.replicas) > 1:
                    planned = replica.route.service_seconds
                    tokens = float(self.output_tokens())
                    model.slowness.observe(self.replica_id, seconds, tokens, planned, now)

    def write(self, log: LogFile, seconds: float) -> None:
        """One line, without bodies and without keys.

        Put together by hand, because one is written for each request. Request ids, routes,
        addresses, outcomes and codes consist of plain characters; names are quoted.
        """
        more = ""
        if self.error:
            more += f',"error":"{self.error}"'
        if self.key_id:
            more += f',"key":{_quoted(self.key_id)}'
        if self.model:
            more += (
                f',"model":{_quoted(self.model)},"replica":{_quoted(self.replica_id)},'
                f'"stream":{"true" if self.stream else "false"},"attempts":{self.attempts},'
                f'"seconds":{seconds:.6f}'
            )
        if self.queue_seconds is not None:
            more += f',"queue_seconds":{self.queue_seconds:.6f}'
        if self.ttft_seconds is not None:
            more += f',"ttft_seconds":{self.ttft_seconds:.6f}'
        if self.chunks:
            more += f',"chunks":{self.chunks}'
        if self.usage is not None:
            more += f',"usage":[{self.usage[0]},{self.usage[1]}]'
        log.write(
            f'{{"at":"{now_text()}","event":"request","request_id":"{self.request_id}",'
            f'"route":"{self.route}","client":"{self.client}","status":{self.status},'
            f'"outcome":"{self.outcome}"{more}}}'
        )


@functools.lru_cache(maxsize=4096)
def _quoted(name: str) -> str:
    """A name of a model, a replica or a key as a JSON string."""
    return json.dumps(name)
