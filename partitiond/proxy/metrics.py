"""What the proxy counts, as Prometheus text.

Every labelled child is looked up once per model and kept; per chunk nothing is counted, a
request adds its number of chunks at its end. Gauges are read from the live requests when scraped.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
E2E_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

Gauges = Iterable[tuple[str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]]]
"""(name, help, label names, samples) of each gauge."""


class _LiveGauges(Collector):
    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, text, labels, samples in self._read():
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in samples:
                family.add_metric(values, value)
            yield family


class ModelMetrics:
    """One model's metrics, ready for use."""

    __slots__ = (
        "_outcomes", "_requests", "chunks", "e2e_seconds", "output_tokens", "queue_seconds",
        "retries", "ttft_seconds",
    )  # fmt: skip

    def __init__(self, metrics: "ProxyMetrics", model: str) -> None:
        self._requests = metrics.requests
        self._outcomes: dict[str, Counter] = {}
        self.chunks = metrics.chunks.labels(model)
        self.output_tokens = metrics.output_tokens.labels(model)
        self.retries = metrics.retries.labels(model)
        self.ttft_seconds = metrics.ttft_seconds.labels(model)
        self.e2e_seconds = metrics.e2e_seconds.labels(model)
        self.queue_seconds = metrics.queue_seconds.labels(model)
        for outcome in ("ok", "failed", "refused", "invalid", "client_gone"):
            self._outcomes[outcome] = metrics.requests.labels(model, outcome)

    def ended(self, outcome: str) -> None:
        """Count a request."""
        self._outcomes[outcome].inc()


class ProxyMetrics:
    """All metrics of the process, in a registry of its own."""

    def __init__(self, read_gauges: Callable[[], Gauges]) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "partitiond_proxy_requests",
            "Requests by model and how they ended.",
            ("model", "outcome"),
            registry=registry,
        )
        self.refusals = Counter(
            "partitiond_proxy_refusals",
            "Requests the proxy refused itself, by reason (the error's code).",
            ("reason",),
            registry=registry,
        )
        self.retries = Counter(
            "partitiond_proxy_retries",
            "Attempts after the first.",
            ("model",),
            registry=registry,
        )
        self.upstream_failures = Counter(
            "partitiond_proxy_upstream_failures",
            "Failed attempts by replica and kind.",
            ("replica", "kind"),
            registry=registry,
        )
        self.chunks = Counter(
            "partitiond_proxy_chunks",
            "Pieces of streams sent to clients.",
            ("model",),
            registry=registry,
        )
        self.output_tokens = Counter(
            "partitiond_proxy_output_tokens",
            "Output tokens by usage, or by events of a stream where usage was not asked for.",
            ("model",),
            registry=registry,
        )
        self.ttft_seconds = self._seconds(
            "ttft",
            "From the last byte of the request to the first content (streams), queueing included.",
            TTFT_BUCKETS,
        )
        self.e2e_seconds = self._seconds(
            "e2e",
            "From the last byte of the request to the end of its answer, where that is ok.",
            E2E_BUCKETS,
        )
        self.queue_seconds = self._seconds("queue", "Time until a replica was found.", TTFT_BUCKETS)
        self._models: dict[str, ModelMetrics] = {}
        registry.register(_LiveGauges(read_gauges))

    def _seconds(self, what: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"partitiond_proxy_{what}_seconds",
            text,
            ("model",),
            buckets=buckets,
            registry=self.registry,
        )

    def model(self, name: str) -> ModelMetrics:
        """The metrics of one model (registered models only, so their number is bounded)."""
        known = self._models.get(name)
        if known is None:
            known = self._models[name] = ModelMetrics(self, name)
        return known

    def text(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
