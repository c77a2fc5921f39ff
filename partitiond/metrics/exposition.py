"""Exports Prometheus metrics of the control plane, and appends the proxy's own unchanged."""

import threading
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from partitiond.core.events import Event
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.replica.observation import Action, StartEngine, StopEngine
from partitiond.core.replica.states import ReplicaState
from partitiond.core.views.lists import ReplicaView
from partitiond.metrics.family import Family
from partitiond.metrics.snapshot import SHOWN, MetricsSnapshot, ShownCollector

_PASS_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""A pass takes milliseconds; a pass above a second delayed everything else."""
_ALERTED: Final = ("engine-failed",)
"""Kinds of events that alerts count. Their counters are exported from 0 on, because `increase` does
not see a counter's first value: engines that fail at the start would raise no alert."""

REPLICAS: Final = Family(
    "partitiond_replicas", "gauge", ("model", "state"), "Replicas by model and state."
)
JOBS: Final = Family("partitiond_jobs", "gauge", ("state",), "Jobs by state.")
STARTS: Final = Family(
    "partitiond_engine_starts", "counter", ("model",), "Engine starts asked for by the controller."
)
STOPS: Final = Family(
    "partitiond_engine_stops", "counter", ("reason",), "Engine stops asked for by the controller."
)
EVENTS: Final = Family("partitiond_events", "counter", ("kind",), "Events by kind.")
PASSES: Final = Family(
    "partitiond_reconcile_seconds", "histogram", (), "Seconds one pass of the loop took."
)
FAMILIES: Final = (REPLICAS, JOBS, STARTS, STOPS, EVENTS, PASSES, *(one for one, _ in SHOWN))
"""All metrics of the control plane; the endpoint's are in `proxy.telemetry.families`."""


class Metrics:
    """Counts what the controller does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._telling = threading.Lock()
        self._replicas = self._gauge(REPLICAS)
        self._jobs = self._gauge(JOBS)
        self._starts = self._counter(STARTS)
        self._stops = self._counter(STOPS)
        self._events = self._counter(EVENTS)
        for kind in _ALERTED:
            self._events.labels(kind)
        self._passes = Histogram(
            PASSES.name, PASSES.help, buckets=_PASS_BUCKETS, registry=self._registry
        )
        self._shown = ShownCollector()
        self._registry.register(self._shown)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.help, family.labels, registry=self._registry)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, family.labels, registry=self._registry)

    def passed(self, seconds: float, actions: Sequence[Action]) -> None:
        """Count one pass of the loop."""
        self._passes.observe(seconds)
        for action in actions:
            if isinstance(action, StartEngine):
                self._starts.labels(action.placement.model).inc()
            elif isinstance(action, StopEngine):
                self._stops.labels(action.reason.value).inc()

    def happened(self, event: Event) -> None:
        """Count an event; alerts on failed engines and plans use its kind."""
        self._events.labels(event.kind).inc()

    def text(
        self,
        replicas: Iterable[ReplicaView],
        jobs: Iterable[Job],
        proxy: str,
        shown: MetricsSnapshot | None = None,
    ) -> str:
        """Make the Prometheus text. Any thread may call it: thousands of samples take a while.

        Args:
            replicas: as they are now.
            jobs: as they are now.
            proxy: the endpoint's own text; empty if it does not answer.
            shown: everything else.
        """
        with self._telling:
            self._set_replicas(replicas)
            states = Tally(job.state for job in jobs)
            for state in JobState:
                self._jobs.labels(state.value).set(states[state])
            self._shown.shown = shown
            own = generate_latest(self._registry).decode()
        return own + proxy + ("\n" if proxy and not proxy.endswith("\n") else "")

    def _set_replicas(self, replicas: Iterable[ReplicaView]) -> None:
        tally = Tally((view.model, view.state) for view in replicas)
        self._replicas.clear()
        for model in {model for model, _ in tally}:
            for state in ReplicaState:
                self._replicas.labels(model, state.value).set(tally[model, state.value])
