"""Statistics of a run: percentiles, intervals by batch means, SLO attainment and goodput."""

import dataclasses
import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.records import Outcome, Record

BATCHES: Final = 10
"""Batches of a window for batch means: enough degrees of freedom for a t-quantile near 2,
few enough that each batch spans many engine steps."""

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom.
_T95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """Mean and percentiles of one latency, in seconds, over `count` values."""

    mean: float
    p50: float
    p95: float
    p99: float
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Slo:
    """A request is good with TTFT and TPOT within these bounds, in seconds.

    Attributes:
        quantile: the SLO holds when this share of all arrivals is good.
    """

    ttft_seconds: float
    tpot_seconds: float
    quantile: float = 0.95


def percentile(ordered: Sequence[float], share: float) -> float:
    """Percentile of sorted values with linear interpolation (numpy's default, as vLLM's).

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no percentile of no values")
    position = (len(ordered) - 1) * share
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarise(values: Iterable[float]) -> LatencySummary | None:
    """Mean and percentiles; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return LatencySummary(
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 0.50),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        count=len(ordered),
    )


def t95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.96


def half_width(values: Sequence[float]) -> float:
    """95 % half-width of the mean of independent values; infinite for fewer than two."""
    count = len(values)
    if count < 2:
        return math.inf
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return t95(count - 1) * math.sqrt(variance / count)


class TokenTimeline:
    """All tokens of a run in the order they arrived, for rates inside any window."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._totals: list[int] = []
        self._total = 0

    def add(self, at: float, tokens: int) -> None:
        """Note tokens that arrived now; calls come in order of time."""
        self._total += tokens
        self._times.append(at)
        self._totals.append(self._total)

    def tokens_before(self, at: float) -> int:
        """Tokens that arrived before `at`."""
        index = bisect_left(self._times, at)
        return self._totals[index - 1] if index else 0

    def snap(self, at: float, reach: float) -> float:
        """The end of the largest gap between arrivals that ends within `reach` of `at`.

        An engine step brings one token for every running request at once. A border in the
        middle of nowhere counts whole steps against parts of a step's time; a border at a
        step's first token does not. Without arrivals in reach, `at` itself.
        """
        low = max(1, bisect_left(self._times, at - reach))
        high = bisect_left(self._times, at + reach)
        if low >= high:
            return at
        best = max(range(low, high), key=lambda i: self._times[i] - self._times[i - 1])
        return self._times[best]


@dataclasses.dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens received inside a window by its length.

    Attributes:
        half_width: 95 %, by batch means, in tokens/s; infinite where it cannot be told.
    """

    output_tokens_per_s: float
    half_width: float

    @property
    def half_width_share(self) -> float:
        """Half-width relative to the throughput."""
        if self.output_tokens_per_s <= 0:
            return math.inf
        return self.half_width / self.output_tokens_per_s


def throughput(
    timeline: TokenTimeline, opened: float, closed: float, batches: int = BATCHES
) -> Throughput:
    """Throughput in [opened, closed] and its half-width by batch means.

    Borders of the window and of its batches are moved to the nearest engine step (`snap`), by
    a quarter of a batch at most.
    """
    length = closed - opened
    if length <= 0:
        return Throughput(0.0, math.inf)
    reach = length / (4 * batches)
    borders = [timeline.snap(opened + length * i / batches, reach) for i in range(batches + 1)]
    totals = [timeline.tokens_before(border) for border in borders]
    rates = [(totals[i + 1] - totals[i]) / (borders[i + 1] - borders[i]) for i in range(batches)]
    mean = (totals[-1] - totals[0]) / (borders[-1] - borders[0])
    # Without a token nothing was seen of the rate, and ten equal zeros are no certainty.
    return Throughput(mean, half_width(rates) if mean > 0 else math.inf)


def is_good(record: Record, slo: Slo) -> bool:
    """Ended without error within both bounds; the TPOT of a one-token output counts as 0."""
    if record.outcome is not Outcome.OK or record.ttft is None:
        return False
    return record.ttft <= slo.ttft_seconds and (record.tpot or 0.0) <= slo.tpot_seconds


def attainment(records: Iterable[Record], slo: Slo) -> float | None:
    """Good requests by all arrivals; refusals and time-outs are missed, cancellations left out.

    None without arrivals.
    """
    counted = [r for r in records if r.outcome not in {Outcome.CANCELLED, Outcome.PENDING}]
    if not counted:
        return None
    return sum(is_good(record, slo) for record in counted) / len(counted)


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """Latency values in seconds, kept whole so that windows can be pooled."""

    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()
    itl: tuple[float, ...] = ()
    e2el: tuple[float, ...] = ()

    @classmethod
    def of_window(cls, records: Iterable[Record], opened: float, closed: float) -> "Samples":
        """Each value counts in the window in which it became known (its last event)."""
        ttft, tpot, itl, e2el = [], [], [], []
        for record in records:
            first, end = record.first_token, record.end
            if first is not None and record.ttft is not None and opened <= first < closed:
                ttft.append(record.ttft)
            if end is not None and record.e2el is not None and opened <= end < closed:
                e2el.append(record.e2el)
                if record.tpot is not None:
                    tpot.append(record.tpot)
            for before, at in itertools.pairwise(record.chunk_times):
                if opened <= at < closed:
                    itl.append(at - before)
        return cls(tuple(ttft), tuple(tpot), tuple(itl), tuple(e2el))

    @classmethod
    def of_requests(cls, records: Iterable[Record]) -> "Samples":
        """All values of these requests, whenever they ended."""
        return cls.of_window(records, -math.inf, math.inf)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(
            self.ttft + other.ttft,
            self.tpot + other.tpot,
            self.itl + other.itl,
            self.e2el + other.e2el,
        )
