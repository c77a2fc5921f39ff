"""Defines metrics of devices, planned and measured replicas, plans and drift.

Each metric is a function of one `MetricsSnapshot`. Metrics are made for each scrape, and nothing is
kept. Labels are names of registered models, replicas, devices and hosts, and words of ours, so the
number of label values is bounded by what the operator registered and applied.

With one host there is no label `host`: series and dashboards of before stay as they are. With
several, all that is on a device has it, after its other labels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.hardware.host_state import HostState, HostView
from partitiond.core.instants import unix_seconds
from partitiond.core.plan.record import Plan, Status
from partitiond.core.views.drift import DriftReport
from partitiond.core.views.overview import Overview, ReplicaOverview
from partitiond.core.views.scaling import ScalingView
from partitiond.metrics.family import Family, Kind

Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""Label values, each with the metric's value; a value of None is unknown and is left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The state at one time, for all metrics.

    Attributes:
        plan: the applied plan.
        sample: the last reading of the endpoint's counts.
        drift, scaling: reports of drift and scaling; None and empty if there are none.
    """

    overview: Overview
    plan: Plan | None = None
    sample: TrafficSample | None = None
    drift: DriftReport | None = None
    scaling: tuple[ScalingView, ...] = ()


_DEVICE: Final = ("device",)
_MODEL: Final = ("model",)
_REPLICA: Final = ("model", "replica", "device")
_ENGINE: Final = ("model", "replica")
_HOST: Final = ("host",)


Read = str | Callable[[Any], float | None]
"""Attribute, or function, of what a metric is read from."""


def _figure(  # noqa: PLR0917 -- the metrics of one source give the last three
    prefix: str,
    kind: Kind,
    labels: tuple[str, ...],
    source: Callable[[MetricsSnapshot], Iterable[tuple[tuple[str, ...], Any]]],
    name: str,
    text: str,
    read: Read,
) -> tuple[Family, Callable[[MetricsSnapshot], Samples]]:
    """Make a metric of a figure that each item of a source has, under the item's label values."""

    def samples(shown: MetricsSnapshot) -> Samples:
        for values, item in source(shown):
            value = getattr(item, read) if isinstance(read, str) else read(item)
            yield values, None if value is None else float(value)

    of_hosts = labels == _HOST
    return Family(f"partitiond_{prefix}_{name}", kind, labels, text, of_hosts=of_hosts), samples


def _devices(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield from (((view.device.id,), view) for view in shown.overview.devices)


def _replicas(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], ReplicaOverview]]:
    """Yield every replica with its labels, under the name that the endpoint uses for its engine."""
    for view in shown.overview.replicas:
        yield (view.model, view.engine, view.device_id), view


def _windows(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what was measured of replicas over the window; unmeasured replicas are left out."""
    for labels, view in _replicas(shown):
        if view.measured is not None:
            yield labels, view.measured


def _models(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield from (((view.name,), view) for view in shown.overview.models)


def _counts(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the endpoint's counts of models."""
    sample = shown.sample
    yield from (((m,), count) for m, count in (sample.models.items() if sample else ()))


def _works(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the endpoint's counts of engines."""
    sample = shown.sample
    for replica, count in sample.replicas.items() if sample is not None else ():
        yield (count.model, replica), count


def _scaled(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield from (((view.model,), view) for view in shown.scaling)


def _applied(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], Any]]:
    if shown.plan is not None:
        yield (), shown.plan


def _infos(shown: MetricsSnapshot) -> Samples:
    for view in shown.overview.devices:
        yield (view.device.id, view.device.hardware, view.device.name), 1.0


def _availability(shown: MetricsSnapshot) -> Samples:
    for view in shown.overview.models:
        yield (view.name, view.availability), 1.0


def _problems(shown: MetricsSnapshot) -> Samples:
    for part, _ in shown.overview.problems:
        yield (part,), 1.0


def _version(shown: MetricsSnapshot) -> Samples:
    yield (shown.overview.version,), 1.0


def _waiting(shown: MetricsSnapshot) -> Samples:
    yield (), float(bool(shown.overview.waiting_plan_id))


def _drifting(shown: MetricsSnapshot) -> Samples:
    for view in shown.drift.replicas if shown.drift is not None else ():
        yield (view.model, view.engine, view.device_id), float(view.verdict in _DRIFTS)


def _factors(shown: MetricsSnapshot) -> Samples:
    for one in shown.drift.corrections if shown.drift is not None else ():
        yield (one.model, one.hardware), one.factor


def _remeasures(shown: MetricsSnapshot) -> Samples:
    if shown.drift is not None:
        yield (), float(len(shown.drift.remeasures))


def _hosts(shown: MetricsSnapshot) -> Iterator[tuple[tuple[str, ...], HostView]]:
    """Yield one host of each name, none if there is only one host. A host that took another's name
    is refused, and listed last.
    """
    hosts = {host.name: host for host in reversed(shown.overview.hosts)}
    yield from (((name,), host) for name, host in hosts.items())


def _host_states(shown: MetricsSnapshot) -> Samples:
    for _, host in _hosts(shown):
        for state in HostState:
            yield (host.name, state.value), float(host.state is state)


_device = functools.partial(_figure, "device", "gauge", _DEVICE, _devices)
_replica = functools.partial(_figure, "replica", "gauge", _REPLICA, _replicas)
_measured = functools.partial(_figure, "replica", "gauge", _REPLICA, _windows)
_model = functools.partial(_figure, "model", "gauge", _MODEL, _models)
_traffic = functools.partial(_figure, "model", "counter", _MODEL, _counts)
_work = functools.partial(_figure, "engine", "counter", _ENGINE, _works)
_scaling = functools.partial(_figure, "scaling", "gauge", _MODEL, _scaled)
_plan = functools.partial(_figure, "plan", "gauge", (), _applied)
_host = functools.partial(_figure, "host", "gauge", _HOST, _hosts)
_DRIFTS: Final = frozenset({"slower", "faster"})

SHOWN: Final[tuple[tuple[Family, Callable[[MetricsSnapshot], Samples]], ...]] = (
    (
        Family("partitiond_build_info", "gauge", ("version",), "1; the daemon's version."),
        _version,
    ),
    (
        Family("partitiond_problem", "gauge", ("part",), "1 for each part that is not ready."),
        _problems,
    ),
    (
        Family(
            "partitiond_device_info", "gauge", ("device", "hardware", "name"), "1; what it is."
        ),
        _infos,
    ),
    _device("memory_used_bytes", "Memory in use by anyone, as the driver says.", "used_bytes"),
    _device("memory_held_bytes", "Memory that engines hold, by their partitions.", "held_bytes"),
    _device("memory_coming_bytes", "Memory that engines to come will hold.", "coming_bytes"),
    _device("memory_room_bytes", "Memory that engines may hold.", "room_bytes"),
    _device("power_watts", "Power drawn now.", "watts"),
    _device("busy_ratio", "Share of time it computed, 0..1.", "busy_share"),
    _device("temperature_celsius", "Its temperature.", "celsius"),
    _device("cordoned", "1 while nothing is placed there.", lambda view: bool(view.cordoned)),
    _replica("memory_bytes", "Memory it holds by plan.", "memory_bytes"),
    _replica("compute_ratio", "Its share of its device's compute, 0..1.", "compute_share"),
    _replica("limit_sequences", "Sequences it may have in flight.", "limit"),
    _replica(
        "planned_output_tokens_per_second",
        "Output tokens/s by plan, sharing included.",
        "planned_output_tokens_per_s",
    ),
    _replica(
        "planned_requests_per_second", "Requests/s by plan, sharing included.",
        "planned_req_per_s",
    ),
    _replica(
        "planned_ttft_p95_seconds", "TTFT (95 %) by plan, at the engine.",
        "planned_ttft_p95_seconds",
    ),
    _replica("planned_tpot_p95_seconds", "TPOT (95 %) by plan.", "planned_tpot_p95_seconds"),
    _measured(
        "measured_output_tokens_per_second", "Output tokens/s over the window.",
        "output_tokens_per_s",
    ),
    _measured("measured_requests_per_second", "Requests/s over the window.", "req_per_s"),
    _measured(
        "measured_ttft_mean_seconds", "Mean TTFT over the window, at the engine.", "first_seconds"
    ),
    _measured("measured_tpot_mean_seconds", "Mean TPOT over the window.", "tpot_seconds"),
    _measured("measured_batch", "Mean sequences in flight over the window.", "mean_batch"),
    _measured("busy_ratio", "Share of the window with a request in flight.", "busy_share"),
    (
        Family(
            "partitiond_replica_drifts", "gauge", _REPLICA,
            "1 while measured and predicted disagree beyond their confidence.",
        ),
        _drifting,
    ),
    (
        Family(
            "partitiond_drift_correction_ratio", "gauge", ("model", "hardware"),
            "Factor on the planner's rates because of drift.",
        ),
        _factors,
    ),
    (
        Family(
            "partitiond_drift_remeasures", "gauge", (),
            "Profiles that are to be measured again because of drift.",
        ),
        _remeasures,
    ),
    (
        Family(
            "partitiond_model_availability", "gauge", ("model", "availability"),
            "1 for the availability it has.",
        ),
        _availability,
    ),
    _model("replicas_serving", "Replicas that serve.", "replicas_serving"),
    _model("replicas_planned", "Replicas of the applied plan.", "replicas_planned"),
    _model(
        "demand_requests_per_second", "Requests/s it is planned for.", "demand_req_per_s"
    ),
    _model(
        "capacity_requests_per_second", "Requests/s of its serving replicas, by plan.",
        "capacity_req_per_s",
    ),
    _model("planned_watts", "Draw of its replicas by plan.", "joules_per_s"),
    _traffic("arrived", "Requests that engines have to work for.", "arrived"),
    _traffic("refused", "Of them: refused in the queue.", "refused"),
    _traffic("failed", "Of them: failed.", "failed"),
    _traffic(
        "held", "Requests that waited while a change or a wake-up left it without a replica.",
        "held",
    ),
    _traffic("turned_away", "Requests refused at once because of such an outage.", "turned_away"),
    _work("requests_ok", "Requests that ended ok at the engine.", "ok"),
    _work("requests_failed", "Attempts that failed at the engine.", "failed"),
    _work("output_tokens", "Output tokens of those that ended ok.", "output_tokens"),
    _work("sequence_seconds", "Sequences in flight, integrated over time.", "sequence_seconds"),
    _work("busy_seconds", "Time with at least one request in flight.", "busy_seconds"),
    _scaling(
        "measured_requests_per_second", "Requests/s that arrived in the last step.",
        "measured_req_per_s",
    ),
    _scaling("forecast_requests_per_second", "Requests/s expected.", "forecast_req_per_s"),
    _scaling("upper_requests_per_second", "Requests/s expected at most.", "upper_req_per_s"),
    _scaling(
        "planned_requests_per_second", "Requests/s that plans are made for.", "planned_req_per_s"
    ),
    _scaling("scaled_to_zero", "1 while it is scaled to zero.", "scaled_to_zero"),
    _plan("placements", "Replicas of the applied plan.", lambda plan: float(len(plan.placements))),
    _plan("unplaced", "Models, or parts of demands, without a place.",
          lambda plan: float(len(plan.unplaced))),
    _plan("objective_value", "Its value; what that is, depends on the objective.",
          lambda plan: plan.certificate.value),
    _plan("objective_bound", "No plan can be better than this.",
          lambda plan: plan.certificate.bound),
    _plan("gap_ratio", "Certified gap to the bound; 0 is proven optimal.",
          lambda plan: plan.certificate.gap),
    _plan("optimal", "1 where it serves all and is proven optimal.",
          lambda plan: float(
              plan.certificate.status is Status.OPTIMAL and not plan.certificate.partial
          )),
    _plan("solve_seconds", "Time the solver took.", lambda plan: plan.certificate.seconds),
    _plan("created_timestamp_seconds", "When it was made, Unix seconds.",
          lambda plan: unix_seconds(plan.created_at)),
    (
        Family(
            "partitiond_host_state", "gauge", ("host", "state"),
            "1 for the state it has: fine, late, silent, lost, refused.", of_hosts=True,
        ),
        _host_states,
    ),
    _host("silent_seconds", "Time since its last word; 0 while it answers.",
          lambda host: host.silent_seconds),
    _host("clock_offset_seconds", "Its clock less the head's; absent until it answered.",
          lambda host: host.clock_offset_seconds),
    _host("gpus", "Its GPUs, as last seen.", lambda host: float(host.gpus)),
    (
        Family("partitiond_plan_waiting", "gauge", (), "1 while a plan waits for `apply`."),
        _waiting,
    ),
)  # fmt: skip
"""Every metric of this module."""


class ShownCollector(Collector):
    """Collects the metrics of one `MetricsSnapshot`.

    Attributes:
        shown: the state to collect from; None gives no metrics.
    """

    def __init__(self) -> None:
        self.shown: MetricsSnapshot | None = None

    def describe(self) -> Iterator[Metric]:
        """No metrics, because none are known before a scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all families, including those without a sample."""
        shown = self.shown
        if shown is None:
            return
        several = bool(shown.overview.hosts)
        hosts = {view.device.id: view.device.host for view in shown.overview.devices}
        hosts |= {view.device_id: view.host for view in shown.overview.replicas if view.host}
        for family, samples in SHOWN:
            if family.of_hosts and not several:
                continue
            labels = family.labels_of_hosts if several else family.labels
            with_host = labels != family.labels
            made: CounterMetricFamily | GaugeMetricFamily
            if family.kind == "counter":
                made = CounterMetricFamily(family.name, family.help, labels=labels)
            else:
                made = GaugeMetricFamily(family.name, family.help, labels=labels)
            for values, value in samples(shown):
                if value is None:
                    continue
                device = values[family.labels.index("device")] if with_host else ""
                host = (hosts.get(device, ""),) if with_host else ()
                made.add_metric((*values, *host), value)
            yield made
