"""Counts ended requests by model, replica and key; see `metrics` and `traffic`."""

import bisect
from typing import Final

from partitiond.core.demand.traffic import TTFT_BOUNDS, ModelCount, UsageCount

TTFT_BUCKETS: Final = TTFT_BOUNDS
E2E_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800,
)  # fmt: skip
TPOT_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1,
)  # fmt: skip
TOKEN_BUCKETS: Final = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip
"""Bounds of OpenTelemetry's conventions for generative models."""

OUTCOMES: Final = ("ok", "failed", "refused", "invalid", "client_gone")


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, number of values up to it), as Prometheus expects them."""
        out: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip(
            (*map(float, self._bounds), float("inf")), self.counts, strict=True
        ):
            total += count
            out.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return out


class ModelMetrics:
    """One model's counts; names as in the metrics text, without the prefix.

    Attributes:
        demand: of requests that need an engine's work, for autoscaling and the overview.
        uses: the use of each key, by its id.
    """

    __slots__ = (
        "demand", "e2e_seconds", "outcomes", "output_tokens", "prompt_tokens", "queue_seconds",
        "request_output_tokens", "request_prompt_tokens", "tpot_seconds", "ttft_seconds", "untold",
        "uses",
    )  # fmt: skip

    def __init__(self) -> None:
        self.demand = ModelCount()
        self.uses: dict[str, UsageCount] = {}
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.untold = 0
        self.ttft_seconds = Histogram(TTFT_BUCKETS)
        self.e2e_seconds = Histogram(E2E_BUCKETS)
        self.queue_seconds = Histogram(TTFT_BUCKETS)
        self.tpot_seconds = Histogram(TPOT_BUCKETS)
        self.request_prompt_tokens = Histogram(TOKEN_BUCKETS)
        self.request_output_tokens = Histogram(TOKEN_BUCKETS)

    def use_of(self, key_id: str) -> UsageCount:
        """Return the use of a key (known keys only, so their number is bounded)."""
        use = self.uses.get(key_id)
        if use is None:
            use = self.uses[key_id] = UsageCount()
        return use
