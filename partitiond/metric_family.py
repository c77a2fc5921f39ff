"""What a metric is called, what it says, and what its labels are: data for both that are scraped.

The reference page, the alert rules and the dashboards are checked against these.
"""

import dataclasses
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: in full, without the ending that Prometheus gives its samples (`_total`, `_bucket`).
        labels: each has few values: registered models, replicas, devices, or words of ours; never
            anything a client sends.
        note: what is special about it, for the reference page.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    note: str = ""

    @property
    def samples(self) -> tuple[str, ...]:
        """Names under which Prometheus keeps it."""
        if self.kind == "counter":
            return (f"{self.name}_total",)
        if self.kind == "histogram":
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)
