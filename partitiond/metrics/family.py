"""Defines the record of a metric (name, meaning, labels), for control plane and proxy.

The reference page, the alert rules and the dashboards are checked against these records.
"""

import dataclasses
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: the full name, without the suffix of Prometheus samples (`_total`, `_bucket`).
        labels: each has few values: registered models, replicas, devices, or words of ours; never
            text from a client.
        note: peculiarities of the metric, for the reference page.
        of_hosts: whether it is exported only if there are several hosts.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    note: str = ""
    of_hosts: bool = False

    @property
    def labels_of_hosts(self) -> tuple[str, ...]:
        """Its labels if there are several hosts: what is on a device has the device's host."""
        on_device = "device" in self.labels and "host" not in self.labels
        return (*self.labels, "host") if on_device else self.labels

    @property
    def samples(self) -> tuple[str, ...]:
        """Names under which Prometheus keeps the metric."""
        if self.kind == "counter":
            return (f"{self.name}_total",)
        if self.kind == "histogram":
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)
