"""Records a request that has ended: in metrics, in estimates and in one log line."""

import functools
import json
from typing import TYPE_CHECKING, Final

from partitiond.core.keys.shared_room import network_of
from partitiond.core.keys.tokens_charged import NO_CHARGE, Charge, ObservedOutput, Usage
from partitiond.proxy.telemetry.counters import ModelMetrics
from partitiond.proxy.telemetry.logs import LogFile, now_text
from partitiond.proxy.telemetry.metrics import ProxyMetrics

if TYPE_CHECKING:
    from partitiond.proxy.dispatch.live import LiveModel
    from partitiond.proxy.dispatch.live_requests import LiveRequest
    from partitiond.proxy.dispatch.replicas import LiveReplica
    from partitiond.proxy.request.parts import ParsedRequest

NOTHING_SEEN: Final = ObservedOutput()


class Record:
    """The outcome of a request.

    Attributes:
        outcome: ok, failed, refused, invalid or client_gone.
        error: code of the error, or empty.
        client: address of the client, or empty.
        replica_id: the last replica tried.
        host: of that replica; empty for this one.
        ttft_seconds: of a stream, or None.
        queue_seconds: until the first replica was found, or None.
        service_seconds: on the last replica; None unless the engine ended the answer.
        seen: the observed events of the last attempt that began a stream.
        at_work: an engine has the request, or had it until a time limit passed.
        trace_id: of its trace, or empty.
        usage: (prompt tokens, output tokens) as the engine reported them, or None.
        charge: the tokens that its key pays.
    """

    # Class attributes as defaults: most requests set half of them, and each assignment costs time.
    started_at = 0.0
    status = 0
    outcome = "failed"
    error = ""
    client = ""
    model = ""
    key_id = ""
    replica_id = ""
    host = ""
    trace_id = ""
    stream = False
    attempts = 0
    ttft_seconds: float | None = None
    queue_seconds: float | None = None
    service_seconds: float | None = None
    seen = NOTHING_SEEN
    at_work = False
    usage: Usage | None = None
    charge: Charge = NO_CHARGE

    def __init__(self, route: str, request_id: str) -> None:
        self.route = route
        self.request_id = request_id

    @property
    def caller(self) -> str:
        """By whom room is shared: the key, or the network of a client without one."""
        return self.key_id or network_of(self.client)

    def output_tokens(self) -> int:
        """Output tokens by usage; for a stream without usage, its events with output."""
        return self.usage[1] if self.usage is not None else self.seen.output_events

    def count(
        self,
        metrics: ProxyMetrics,
        seconds: float,
        live: "LiveRequest",
        replica: "LiveReplica | None",
    ) -> None:
        """Add the request to the counts of its model, its key and the replica that answered it."""
        model = metrics.model(self.model)
        if live.cost.sequences:
            self._count_work(model, seconds, live, replica)
        model.outcomes[self.outcome] += 1
        if self.outcome == "refused":
            metrics.refusals[self.error] += 1
        if self.queue_seconds is not None:
            model.queue_seconds.observe(self.queue_seconds)
        if self.ttft_seconds is not None:
            model.ttft_seconds.observe(self.ttft_seconds)
        if self.outcome == "ok":
            model.e2e_seconds.observe(seconds)
        if self.usage is not None:
            model.prompt_tokens += self.usage[0]
        model.output_tokens += self.output_tokens()
        model.untold += int(self.charge.untold)

    def _count_work(
        self,
        model: ModelMetrics,
        seconds: float,
        live: "LiveRequest",
        replica: "LiveReplica | None",
    ) -> None:
        """Count the engine's work for the request (see `core.demand.traffic`)."""
        demand, outcome = model.demand, self.outcome
        prompt_tokens = 0 if self.usage is None else self.usage[0]
        output_tokens = self.output_tokens()
        if live.attempts:
            use = model.use_of(self.key_id)
            use.prompt_tokens += self.charge.prompt_tokens
            use.output_tokens += self.charge.output_tokens
            if outcome == "failed":
                use.failed += 1
            elif outcome == "ok" or self.charge.tokens:
                use.requests += 1
        if outcome == "refused":
            demand.refused += 1
        elif outcome == "failed":
            demand.failed += 1
        elif outcome == "ok":
            demand.ok += 1
            demand.prompt_tokens += prompt_tokens
            demand.output_tokens += output_tokens
            demand.e2e_seconds += seconds
            model.request_prompt_tokens.observe(prompt_tokens)
            model.request_output_tokens.observe(output_tokens)
            further = output_tokens // live.takes.sequences - 1
            if self.ttft_seconds is not None and further > 0:
                model.tpot_seconds.observe((seconds - self.ttft_seconds) / further)
            if replica is not None:
                self.count_replica(replica, seconds, live)

    def count_replica(self, replica: "LiveReplica", seconds: float, live: "LiveRequest") -> None:
        """Count a request that ended well as work of the replica that answered it."""
        work = replica.work
        work.ok += 1
        work.prompt_tokens += 0 if self.usage is None else self.usage[0]
        work.output_tokens += self.output_tokens()
        if self.service_seconds is not None:
            work.service_seconds += self.service_seconds / live.rounds
        if self.ttft_seconds is not None:
            # Measured on the attempt that answered: it sent the first content.
            before = live.placed_at - live.started_at
            work.first_seconds += self.ttft_seconds - before
            work.first_count += 1
            further = self.output_tokens() // live.takes.sequences - 1
            if further > 0:
                work.rest_seconds += seconds - self.ttft_seconds
                work.rest_tokens += further

    def teach(
        self,
        model: "LiveModel",
        request: "ParsedRequest",
        live: "LiveRequest",
        *,
        generates: bool,
    ) -> None:
        """Update the estimates from the reported usage; without usage, from counted events.

        Args:
            generates: its route does; else it only reads its inputs, as an embedding.
        """
        size, usage, sequences = request.size, self.usage, request.sequences
        if not sequences:
            return
        tokens = self.output_tokens()
        each = tokens // sequences
        # Neither of text that holds the prompt nor of merged events.
        is_plain = usage is not None and tokens < 2 * self.seen.output_events
        text_bytes = self.seen.text_bytes if is_plain and not request.echoes else 0
        model.figures.learn(
            self.key_id,
            prompt=(size.prompt_bytes, 0 if usage is None else usage[0]),
            text=(text_bytes, tokens),
            output_tokens=each,
        )
        seconds = self.service_seconds
        if seconds is not None:
            # Of one sequence: many inputs of one request say no more of a replica's speed. What
            # only reads is as fast as it reads; a generated answer of no token tells no speed.
            read = 0 if usage is None or generates else usage[0]
            work, of_one = tokens or read, seconds / live.rounds
            model.learn(self.replica_id, self.host, of_one, work / sequences)

    def write(self, log: LogFile, seconds: float, event: str = "request") -> None:
        """Write one log line, without bodies and without keys.

        The line is formatted by hand, because one is written for each request. Request ids,
        routes, addresses, outcomes and codes consist of plain characters; names are quoted.
        """
        more = ""
        if self.trace_id:
            more += f',"trace_id":"{self.trace_id}"'
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
        if self.usage is not None:
            more += f',"usage":[{self.usage[0]},{self.usage[1]}]'
        charge = self.charge
        if charge.tokens:
            more += f',"charged":[{charge.prompt_tokens},{charge.output_tokens}]'
        log.write(
            f'{{"at":"{now_text()}","event":"{event}","request_id":"{self.request_id}",'
            f'"route":"{self.route}","client":"{self.client}","status":{self.status},'
            f'"outcome":"{self.outcome}"{more}}}'
        )


@functools.lru_cache(maxsize=4096)
def _quoted(name: str) -> str:
    """Return the name of a model, a replica or a key as a JSON string."""
    return json.dumps(name)
