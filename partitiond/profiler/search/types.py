"""Defines the inputs and results of the search. Plain data."""

import dataclasses
import enum

from partitiond.core.profile.knee import TOLERANCE
from partitiond.core.profile.points import LimitedBy

Prior = tuple[tuple[int, float], ...]
"""Predicted (batch, output tokens/s) pairs. Only their shape is used, and only at the start."""


class Purpose(enum.StrEnum):
    """Purpose of a trial."""

    UP = "up"
    """First look at an anchor, batches ascending."""
    DOWN = "down"
    """Second visit, in the opposite order of the first ones."""
    CONFIRM = "confirm"
    """Fresh window for X*."""
    REFINE = "refine"
    """First look inside a gap."""
    AGAIN = "again"
    """Visits disagree."""


@dataclasses.dataclass(frozen=True, slots=True)
class SearchLimits:
    """Bounds of the search.

    Attributes:
        max_batch: largest batch that the started engine takes.
        time_limit_seconds: for all trials together; None for no limit.
        min_window_seconds, max_window_seconds: bounds of one window.
        tolerance: e of the knee.
        prior: predicted throughput by batch. It chooses the first trials; a wrong prior costs
            time, never correctness.
    """

    max_batch: int
    time_limit_seconds: float | None = None
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0
    tolerance: float = TOLERANCE
    prior: Prior | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """One finished trial.

    Attributes:
        seconds: whole wall time, ramp included.
        e2el_seconds: mean end-to-end latency.
        kv_limited: the KV cache limited the trial, so its batch cannot be the knee.
        died: the engine ended during the trial; its figures mean nothing.
    """

    batch: int
    purpose: Purpose
    output_tokens_per_s: float
    half_width: float
    seconds: float
    e2el_seconds: float
    kv_limited: bool = False
    died: bool = False

    @property
    def beyond(self) -> bool:
        """Whether the engine does not hold this batch."""
        return self.kv_limited or self.died


@dataclasses.dataclass(frozen=True, slots=True)
class NextTrial:
    """The trial to make now.

    Attributes:
        expected_seconds: wall time of the trial, for progress.
        half_width_share: close the window once its interval is at most this share of the
            throughput, which is narrow enough for the trial's purpose. None: device's default.
    """

    batch: int
    purpose: Purpose
    min_window_seconds: float
    max_window_seconds: float
    expected_seconds: float
    half_width_share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SearchDone:
    """There is nothing more to measure.

    Attributes:
        capped_by: what stopped the growth of the batch, for a knee that was not reached.
        complete: every step was made; False if the time limit left some out.
    """

    capped_by: LimitedBy
    complete: bool
