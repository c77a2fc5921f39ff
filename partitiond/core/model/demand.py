"""Defines the demand for a model, and computes the rate that is planned for it."""

import dataclasses
import math
from typing import Final

from partitiond.core.checks import LEAST, MAX_REQ_PER_S, require, require_positive
from partitiond.core.numbers.poisson import poisson_quantile

DEFAULT_WINDOW_SECONDS: Final = 10.0
"""Interactive clients wait about this long, so shorter bursts can queue. Assumed, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """Demand for a model.

    Attributes:
        req_per_s: mean requests per second; None means "as much as there is".
        burst_factor: peak over mean; the planner packs req_per_s x burst_factor.
        weight: share of the remaining capacity, relative to other models without a rate.
        percentile: of the arrivals in a window. With 99, 99 of 100 windows have room for all
            their requests. Arrivals are taken as Poisson around the (burst's) mean. None plans
            for the mean itself.
        window_seconds: length of that window, about as long as requests may queue: queueing evens
            out bursts within the window.
    """

    req_per_s: float | None = None
    burst_factor: float = 1.0
    weight: float = 1.0
    percentile: float | None = None
    window_seconds: float = DEFAULT_WINDOW_SECONDS

    def __post_init__(self) -> None:
        if self.req_per_s is not None:
            require(
                LEAST <= self.req_per_s <= MAX_REQ_PER_S,
                f"demand must lie between 0 and {MAX_REQ_PER_S:g} requests/s, "
                f"got {self.req_per_s!r}.",
                "Leave the demand out for 'as much as there is', or remove the model.",
            )
        require(
            math.isfinite(self.burst_factor) and 1 <= self.burst_factor <= 100,
            f"burst_factor must lie between 1 and 100, got {self.burst_factor!r}.",
            "1 means no burst; 2 plans for twice the mean rate.",
        )
        require_positive(self.weight, "weight", "shares")
        require(
            self.percentile is None or 50 <= self.percentile < 100,
            f"percentile must be at least 50 and below 100, got {self.percentile!r}.",
            "Write 99 to plan for all but the busiest hundredth of the windows.",
        )
        require(
            0.1 <= self.window_seconds <= 86_400,
            f"window_seconds must lie between 0.1 and 86400, got {self.window_seconds!r}.",
            "It is about how long a request may wait in the queue; 10 is usual.",
        )
        require(
            self.percentile is None or self.req_per_s is not None,
            "a percentile needs a demand in requests/s to be a percentile of.",
            "Give req_per_s, or leave the percentile out.",
        )

    @property
    def planned_req_per_s(self) -> float | None:
        """The rate that the planner packs, or None for "as much as there is".

        The rate is the mean times `burst_factor`. With a percentile it is that quantile of the
        arrivals in a window at this mean rate, per second, and never less than the mean rate.
        """
        if self.req_per_s is None:
            return None
        peak = self.req_per_s * self.burst_factor
        if self.percentile is None:
            return peak
        most = poisson_quantile(peak * self.window_seconds, self.percentile / 100)
        return max(peak, most / self.window_seconds)


ANY_DEMAND: Final = Demand()
"""As much as there is."""
