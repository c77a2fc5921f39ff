"""What the proxy counts, as Prometheus text.

Plain numbers, because a request touches a dozen of them: a counter of `prometheus_client` takes a
lock each time. Its families are made when someone scrapes. Every labelled number is looked up once
per model and kept; per chunk nothing is counted, a request adds its chunks at its end. Gauges are
read from the live requests.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from partitiond.proxy.counters import Histogram, ModelMetrics

Gauges = Iterable[tuple[str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]]]
"""(name, help, label names, samples) of each gauge."""


_COUNTERS: Final = (
    ("retries", "Attempts after the first."),
    ("chunks", "Pieces of streams sent to clients."),
    ("prompt_tokens", "Prompt tokens by usage."),
    ("output_tokens", "Output tokens by usage, or by events of a stream that told none."),
)
_HISTOGRAMS: Final = (
    (
        "ttft_seconds",
        "From the last byte of the request to the first content (streams), queueing included.",
    ),
    (
        "e2e_seconds",
        "From the last byte of the request to the end of its answer, where that is ok.",
    ),
    ("queue_seconds", "Time until a replica was found."),
)


class ProxyMetrics(Collector):
    """All metrics of the process.

    Attributes:
        refusals: requests the proxy refused itself, by the error's code.
        upstream_failures: failed attempts by replica and kind.
    """

    def __init__(self, read_gauges: Callable[[], Gauges]) -> None:
        self._read_gauges = read_gauges
        self._models: dict[str, ModelMetrics] = {}
        self.refusals: collections.Counter[str] = collections.Counter()
        self.upstream_failures: collections.Counter[tuple[str, str]] = collections.Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def model(self, name: str) -> ModelMetrics:
        """The metrics of one model (registered models only, so their number is bounded)."""
        known = self._models.get(name)
        if known is None:
            known = self._models[name] = ModelMetrics()
        return known

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before it is scraped."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All families."""
        models = self._models
        yield _counter(
            "requests",
            "Requests by model and how they ended.",
            ("model", "outcome"),
            {
                (name, outcome): count
                for name, metrics in models.items()
                for outcome, count in metrics.outcomes.items()
            },
        )
        yield _counter(
            "refusals",
            "Requests the proxy refused itself, by reason (the error's code).",
            ("reason",),
            {(reason,): count for reason, count in self.refusals.items()},
        )
        yield _counter(
            "upstream_failures",
            "Failed attempts by replica and kind.",
            ("replica", "kind"),
            self.upstream_failures,
        )
        for field, text in _COUNTERS:
            yield _counter(
                field, text, ("model",), {(n,): getattr(m, field) for n, m in models.items()}
            )
        for field, text in _HISTOGRAMS:
            family = HistogramMetricFamily(f"partitiond_proxy_{field}", text, labels=("model",))
            for name, metrics in models.items():
                histogram: Histogram = getattr(metrics, field)
                family.add_metric((name,), histogram.buckets(), histogram.sum)
            yield family
        for name, text, labels, samples in self._read_gauges():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for values, value in samples:
                gauge.add_metric(values, value)
            yield gauge

    def text(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)


LabelT = TypeVar("LabelT", bound=tuple[str, ...])


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[LabelT, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"partitiond_proxy_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
