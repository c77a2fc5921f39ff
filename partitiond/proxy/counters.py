"""The numbers of one model, counted as requests end; see `metrics`."""

import bisect
from typing import Final

TTFT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
E2E_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800,
)  # fmt: skip

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
        """(upper bound, values up to it), as Prometheus wants them."""
        out: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip(
            (*map(float, self._bounds), float("inf")), self.counts, strict=True
        ):
            total += count
            out.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return out


class ModelMetrics:
    """One model's numbers; names as in the text, without their prefix."""

    __slots__ = (
        "chunks", "e2e_seconds", "outcomes", "output_tokens", "prompt_tokens", "queue_seconds",
        "retries", "ttft_seconds",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.retries = 0
        self.chunks = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.ttft_seconds = Histogram(TTFT_BUCKETS)
        self.e2e_seconds = Histogram(E2E_BUCKETS)
        self.queue_seconds = Histogram(TTFT_BUCKETS)

    def ended(self, outcome: str) -> None:
        """Count a request."""
        self.outcomes[outcome] += 1
