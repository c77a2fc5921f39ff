"""Fakes models that scale automatically: their state is as a test sets it."""

import dataclasses
from collections.abc import Sequence

from partitiond.core.errors import NotFoundError
from partitiond.core.views.scaling import ScalingView

VIEW = ScalingView(
    model="a",
    min_replicas=0,
    max_replicas=2,
    scale_to_zero_seconds=600.0,
    at_zero=False,
    replicas_serving=1,
    replicas_planned=1,
    measured_req_per_s=1.5,
    forecast_req_per_s=1.4,
    upper_req_per_s=2.0,
    planned_req_per_s=2.2,
    capacity_req_per_s=3.0,
    idle_seconds=0.5,
    waiting=0,
    changed_at="2030-01-01T00:00:00Z",
    reason="up to 2 req/s are expected or queue, 1 were planned",
)
AT_ZERO = dataclasses.replace(
    VIEW, model="b", at_zero=True, replicas_serving=0, replicas_planned=0, measured_req_per_s=None
)


class FakeScaling:
    """Implements `ports.Scalings`."""

    def views(self) -> Sequence[ScalingView]:
        return (VIEW, AT_ZERO)

    def view(self, model: str) -> ScalingView:
        for found in self.views():
            if found.model == model:
                return found
        raise NotFoundError(f"there is no model {model!r}.")
