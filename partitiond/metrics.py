"""Prometheus metrics of the control plane; the proxy's own figures are appended as they come."""

import re
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from partitiond.core.observation import Action, StartEngine, StopEngine
from partitiond.core.replica import ReplicaState
from partitiond.ports import Event, Job, JobState, ReplicaView

_NAME: Final = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^\n]*\})?$")
_PASS_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""A pass takes milliseconds; one above a second held up everything else."""


class Metrics:
    """Counts what the controller does. Implements `controller.loop.LoopObserver`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._replicas = Gauge(
            "partitiond_replicas",
            "Replicas by model and state.",
            ("model", "state"),
            registry=self._registry,
        )
        self._jobs = Gauge("partitiond_jobs", "Jobs by state.", ("state",), registry=self._registry)
        self._starts = Counter(
            "partitiond_engine_starts",
            "Engine starts asked for by the controller.",
            ("model",),
            registry=self._registry,
        )
        self._stops = Counter(
            "partitiond_engine_stops",
            "Engine stops asked for by the controller.",
            ("reason",),
            registry=self._registry,
        )
        self._events = Counter(
            "partitiond_events", "Events by kind.", ("kind",), registry=self._registry
        )
        self._passes = Histogram(
            "partitiond_reconcile_seconds",
            "Seconds one pass of the loop took.",
            buckets=_PASS_BUCKETS,
            registry=self._registry,
        )

    def passed(self, seconds: float, actions: Sequence[Action]) -> None:
        """One pass of the loop."""
        self._passes.observe(seconds)
        for action in actions:
            if isinstance(action, StartEngine):
                self._starts.labels(action.placement.model).inc()
            elif isinstance(action, StopEngine):
                self._stops.labels(action.reason.value).inc()

    def happened(self, event: Event) -> None:
        """An event was written; failures of engines and of plans can be alerted on by its kind."""
        self._events.labels(event.kind).inc()

    def text(
        self, replicas: Iterable[ReplicaView], jobs: Iterable[Job], proxy: Mapping[str, float]
    ) -> str:
        """Prometheus text.

        Args:
            replicas: as they are now.
            jobs: as they are now.
            proxy: samples of the proxy's scrape by name, labels included; a name that is none
                is left out rather than spoiling the whole page.
        """
        self._set_replicas(replicas)
        states = Tally(job.state for job in jobs)
        for state in JobState:
            self._jobs.labels(state.value).set(states[state])
        own = generate_latest(self._registry).decode()
        labelled = {name.partition("{")[0] for name in proxy if "{" in name}
        lines = [
            f"{name} {value!r}"
            for name, value in proxy.items()
            if _NAME.match(name) and name not in labelled  # else a sum beside its own parts
        ]
        return own + "\n".join(lines) + ("\n" if lines else "")

    def _set_replicas(self, replicas: Iterable[ReplicaView]) -> None:
        tally = Tally((view.model, view.state) for view in replicas)
        self._replicas.clear()
        for model in {model for model, _ in tally}:
            for state in ReplicaState:
                self._replicas.labels(model, state.value).set(tally[model, state.value])
