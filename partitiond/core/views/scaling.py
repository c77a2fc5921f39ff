"""Defines models that scale by themselves as people see them."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingView:
    """One model that scales by itself.

    Attributes:
        scale_to_zero_seconds: without a request for so long it gives up its engines; None never.
        scaled_to_zero: it has given them up; its next request starts it.
        measured_req_per_s: requests that arrived in the last step, by the second; None before it.
        forecast_req_per_s, upper_req_per_s: what is expected, and at most; None before a step.
        planned_req_per_s: what plans are made for.
        capacity_req_per_s: what the applied plan gives.
        idle_seconds: since its last request; None where the endpoint does not say.
        waiting: requests that wait for it now.
        changed_at: when what is planned for last changed, ISO 8601 UTC; empty before.
        reason: why it changed, or why it went to zero, in one sentence.
    """

    model: str
    min_replicas: int
    max_replicas: int | None
    scale_to_zero_seconds: float | None
    scaled_to_zero: bool
    replicas_serving: int
    replicas_planned: int
    measured_req_per_s: float | None
    forecast_req_per_s: float | None
    upper_req_per_s: float | None
    planned_req_per_s: float
    capacity_req_per_s: float
    idle_seconds: float | None
    waiting: int
    changed_at: str = ""
    reason: str = ""
