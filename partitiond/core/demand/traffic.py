"""Turns two readings of the proxy's counts into rates and means of the time between them. Pure.

Counts only grow while the proxy lives; a proxy that was restarted begins at zero. A `TrafficSample`
is one reading; `between` makes a `TrafficWindow` of two, in which everything is a rate or a mean
over that time. Autoscaling, the drift ledger, usage and the dashboard all see the traffic through
these types. The proxy counts in them as well.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final, Self

TTFT_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds of the buckets of TTFT and queueing times, in seconds; one more bucket is above."""


@dataclasses.dataclass(slots=True)
class ModelCount:
    """Counts of one model since its proxy began.

    Attributes:
        arrived: generating requests that were admitted to the queue or refused there.
        ok, failed, refused: ended requests by outcome; invalid requests, and requests whose clients
            left, are in none of them.
        prompt_tokens, output_tokens: by reported usage; of streams that reported none, by events.
        ttft_buckets: requests by TTFT, queueing included; `TTFT_BOUNDS` and one more.
        ttft_seconds: sum of their TTFT.
        queue_buckets, queue_seconds: the same for the time until a replica was found.
        e2e_seconds: sum over the requests that ended ok.
        held: requests that waited while a change or a wake-up left the model without a replica.
        turned_away: requests refused at once because of such an outage.
        waiting, in_flight: number of requests now.
    """

    arrived: int = 0
    ok: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_buckets: tuple[int, ...] = ()
    ttft_seconds: float = 0.0
    queue_buckets: tuple[int, ...] = ()
    queue_seconds: float = 0.0
    e2e_seconds: float = 0.0
    held: int = 0
    turned_away: int = 0
    waiting: int = 0
    in_flight: int = 0


@dataclasses.dataclass(slots=True)
class ReplicaCount:
    """Counts of one engine process since its proxy knows it.

    Attributes:
        model: model of the replica.
        generation: of the engine process; another process begins at zero.
        ok, failed: requests that ended at the engine.
        prompt_tokens, output_tokens: of those that ended ok.
        service_seconds: sum of the times from sending a request to it to the end of its answer,
            of those that ended ok.
        first_seconds, first_count: sum and number of the times from sending a stream's request to
            its first content.
        rest_seconds, rest_tokens: sums over streams of the time after the first content, and of the
            tokens after the first: TPOT is their ratio.
        sequence_seconds: sequences in flight, integrated over time.
        busy_seconds: time with at least one request in flight.
        in_flight: sequences in flight now.
    """

    model: str
    generation: str = ""
    ok: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    service_seconds: float = 0.0
    first_seconds: float = 0.0
    first_count: int = 0
    rest_seconds: float = 0.0
    rest_tokens: int = 0
    sequence_seconds: float = 0.0
    busy_seconds: float = 0.0
    in_flight: int = 0


@dataclasses.dataclass(slots=True)
class UsageCount:
    """Use of one model by one key, since the proxy began or in a part of that time.

    Attributes:
        requests: that ended ok, or were left and cost something.
        failed: that failed at an engine.
        prompt_tokens, output_tokens: charged (see `core.keys.tokens_charged`).
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.requests + other.requests,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )

    def since(self, before: Self) -> Self:
        """Return what was added since an earlier count; a count that fell adds nothing."""
        return type(self)(
            max(0, self.requests - before.requests),
            max(0, self.failed - before.failed),
            max(0, self.prompt_tokens - before.prompt_tokens),
            max(0, self.output_tokens - before.output_tokens),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class KeyCount:
    """Use of one key with limits, by which the head divides the limits among hosts.

    Attributes:
        requests, tokens: admitted since the proxy began; of running requests by estimate.
        refused, refused_tokens: refused by the key's limits, or by this host's share of them.
        in_flight: requests running or waiting now.
        budget_start: start of the budget's period, Unix seconds.
        budget_tokens: tokens of the budget that are used or reserved in that period.
    """

    requests: float = 0.0
    tokens: float = 0.0
    refused: int = 0
    refused_tokens: float = 0.0
    in_flight: float = 0.0
    budget_start: float = 0.0
    budget_tokens: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class TrafficSample:
    """One reading of the proxy's counts.

    Attributes:
        at: monotonic seconds.
        epoch: changes whenever counts may begin anew, as with another proxy.
        models: by name.
        replicas: by the engine's name, as in the routing table.
        usage: by key id ("" if no key is required), then model.
        peers: whether the proxy reaches those of other hosts, by host.
        keys: by key id, of keys with limits that were used, where other hosts serve them, too.
        shares_number: of the `HostShares` by which the proxy admits.
    """

    at: float
    epoch: str = ""
    models: Mapping[str, ModelCount] = dataclasses.field(default_factory=dict)
    replicas: Mapping[str, ReplicaCount] = dataclasses.field(default_factory=dict)
    usage: Mapping[str, Mapping[str, UsageCount]] = dataclasses.field(default_factory=dict)
    peers: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    keys: Mapping[str, KeyCount] = dataclasses.field(default_factory=dict)
    shares_number: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ModelTraffic:
    """One model over a window.

    Attributes:
        seconds: length of the window.
        req_per_s: requests that arrived, by the second; refused ones count, they are demand.
        ok_per_s, output_tokens_per_s: what came out.
        prompt_tokens, output_tokens: mean of a request; None without one that ended.
        ttft_seconds, ttft_p95_seconds: mean and 95th percentile (upper bound of its bucket); None
            without a stream.
        queue_seconds, queue_p95_seconds: the same of the time until a replica was found.
        refused, failed, held, turned_away: requests in the window.
        waiting, in_flight: requests at its end.
    """

    seconds: float
    req_per_s: float = 0.0
    ok_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    ttft_seconds: float | None = None
    ttft_p95_seconds: float | None = None
    queue_seconds: float | None = None
    queue_p95_seconds: float | None = None
    refused: int = 0
    failed: int = 0
    held: int = 0
    turned_away: int = 0
    waiting: int = 0
    in_flight: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaTraffic:
    """One engine over a window.

    Attributes:
        seconds: length of the window.
        ok, failed: requests that ended.
        req_per_s, output_tokens_per_s: what came out.
        mean_batch: mean number of sequences in flight.
        busy_share: share of the window with a request in flight, 0..1.
        first_seconds: mean time to the first content, at the engine; None without a stream.
        tpot_seconds: mean time per further token; None without a stream of two tokens.
        service_seconds: mean time of a request in the engine; None without one that ended.
        in_flight: sequences at its end.
    """

    model: str
    seconds: float
    ok: int = 0
    failed: int = 0
    req_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    mean_batch: float = 0.0
    busy_share: float = 0.0
    first_seconds: float | None = None
    tpot_seconds: float | None = None
    service_seconds: float | None = None
    in_flight: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class TrafficWindow:
    """Traffic between two samples.

    Attributes:
        seconds: length of the window; 0 if there are not yet two samples.
        models, replicas: of the later sample.
    """

    seconds: float = 0.0
    models: Mapping[str, ModelTraffic] = dataclasses.field(default_factory=dict)
    replicas: Mapping[str, ReplicaTraffic] = dataclasses.field(default_factory=dict)

    @classmethod
    def between(cls, old: TrafficSample, new: TrafficSample) -> Self:
        """Return the window from `old` to `new`.

        Counts that began anew in between (another proxy, another engine process) count from then.
        """
        seconds = max(0.0, new.at - old.at)
        if seconds == 0.0:
            return cls()
        same = old.epoch == new.epoch
        models = {
            name: _model(old.models.get(name, _NO_MODEL) if same else _NO_MODEL, count, seconds)
            for name, count in new.models.items()
        }
        replicas = {}
        for name, count in new.replicas.items():
            before = old.replicas.get(name) if same else None
            if before is None or before.generation != count.generation:
                before = ReplicaCount(count.model, count.generation)
            replicas[name] = _replica(before, count, seconds)
        return cls(seconds, models, replicas)


_NO_MODEL: Final = ModelCount()
NO_WINDOW: Final = TrafficWindow()


def _model(old: ModelCount, new: ModelCount, seconds: float) -> ModelTraffic:
    ended = new.ok - old.ok
    ttft = _fewer(old.ttft_buckets, new.ttft_buckets)
    queue = _fewer(old.queue_buckets, new.queue_buckets)
    return ModelTraffic(
        seconds=seconds,
        req_per_s=(new.arrived - old.arrived) / seconds,
        ok_per_s=ended / seconds,
        output_tokens_per_s=(new.output_tokens - old.output_tokens) / seconds,
        prompt_tokens=_ratio(new.prompt_tokens - old.prompt_tokens, ended),
        output_tokens=_ratio(new.output_tokens - old.output_tokens, ended),
        ttft_seconds=_ratio(new.ttft_seconds - old.ttft_seconds, sum(ttft)),
        ttft_p95_seconds=bucket_quantile(ttft, 0.95),
        queue_seconds=_ratio(new.queue_seconds - old.queue_seconds, sum(queue)),
        queue_p95_seconds=bucket_quantile(queue, 0.95),
        refused=new.refused - old.refused,
        failed=new.failed - old.failed,
        held=new.held - old.held,
        turned_away=new.turned_away - old.turned_away,
        waiting=new.waiting,
        in_flight=new.in_flight,
    )


def _replica(old: ReplicaCount, new: ReplicaCount, seconds: float) -> ReplicaTraffic:
    ended = new.ok - old.ok
    return ReplicaTraffic(
        model=new.model,
        seconds=seconds,
        ok=ended,
        failed=new.failed - old.failed,
        req_per_s=ended / seconds,
        output_tokens_per_s=(new.output_tokens - old.output_tokens) / seconds,
        mean_batch=(new.sequence_seconds - old.sequence_seconds) / seconds,
        busy_share=min(1.0, (new.busy_seconds - old.busy_seconds) / seconds),
        first_seconds=_ratio(
            new.first_seconds - old.first_seconds, new.first_count - old.first_count
        ),
        tpot_seconds=_ratio(new.rest_seconds - old.rest_seconds, new.rest_tokens - old.rest_tokens),
        service_seconds=_ratio(new.service_seconds - old.service_seconds, ended),
        in_flight=new.in_flight,
    )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count > 0 else None


def _fewer(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n - (old[i] if i < len(old) else 0) for i, n in enumerate(new))


def bucket_quantile(
    counts: tuple[int, ...], quantile: float, bounds: tuple[float, ...] = TTFT_BOUNDS
) -> float | None:
    """Return the upper bound of the bucket that holds the quantile; the last bound for values above
    all.

    None if nothing was counted.
    """
    total = sum(counts)
    if total <= 0:
        return None
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= quantile * total:
            return float(bounds[min(index, len(bounds) - 1)])
    return float(bounds[-1])
