"""Computes a run's statistics: percentiles, intervals by batch means, attainment and goodput."""

import dataclasses
import itertools
import math
import operator
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.results.intervals import (
    BATCHES,
    Interval,
    half_width,
    mean_interval,
    percentile_interval,
    ratio_half_width,
    t95,
)
from loadgen.results.records import Outcome, Record

__all__ = [
    "LatencySummary",
    "Samples",
    "Slo",
    "Throughput",
    "TokenTimeline",
    "attainment",
    "half_width",
    "is_good",
    "percentile",
    "summarise",
    "t95",
    "throughput",
]


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """Mean and percentiles of one latency, in seconds, over `count` values.

    The 95 % intervals are None if there are too few values.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    count: int
    mean_interval: Interval | None = None
    p50_interval: Interval | None = None
    p95_interval: Interval | None = None
    p99_interval: Interval | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slo:
    """Bounds of TTFT and TPOT in seconds; a request within both is good.

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
    """Mean and percentiles with their intervals; None without values.

    Args:
        values: in the order in which they became known (as `Samples` holds them).
    """
    measured = list(values)
    if not measured:
        return None
    ordered = sorted(measured)
    p50, p95, p99 = (percentile(ordered, share) for share in (0.50, 0.95, 0.99))
    return LatencySummary(
        mean=math.fsum(ordered) / len(ordered),
        p50=p50,
        p95=p95,
        p99=p99,
        count=len(ordered),
        mean_interval=mean_interval(measured),
        p50_interval=percentile_interval(measured, ordered, 0.50, p50),
        p95_interval=percentile_interval(measured, ordered, 0.95, p95),
        p99_interval=percentile_interval(measured, ordered, 0.99, p99),
    )


class TokenTimeline:
    """All tokens of a run in the order of their arrival, for rates inside any window.

    Arrivals within `RESOLUTION_SECONDS` are kept as one entry, so that long runs stay small.
    """

    RESOLUTION_SECONDS: Final = 1e-4
    MAX_REACH_SECONDS: Final = 2.0

    def __init__(self) -> None:
        self._times: list[float] = []
        self._totals: list[int] = []
        self._total = 0
        self._next = -math.inf

    def add(self, at: float, tokens: int) -> None:
        """Note tokens that arrived at `at`; calls have to come in order of time."""
        self._total += tokens
        if at < self._next:
            self._totals[-1] = self._total
            return
        self._next = at + self.RESOLUTION_SECONDS
        self._times.append(at)
        self._totals.append(self._total)

    @property
    def last(self) -> float:
        """Time of the newest tokens, to within the resolution; -inf before any arrived."""
        return self._times[-1] if self._times else -math.inf

    def tokens_before(self, at: float) -> int:
        """Tokens that arrived before `at`."""
        index = bisect_left(self._times, at)
        return self._totals[index - 1] if index else 0

    def snap(self, at: float, reach: float) -> float:
        """The end of the largest gap between arrivals that ends within `reach` of `at`.

        An engine step brings one token for every running request at once. A border inside a step
        counts whole steps against a part of a step's time; a border at a step's first token does
        not. Without arrivals in reach the result is `at` itself. The reach is at most
        `MAX_REACH_SECONDS`: no step lasts longer, and live rates are computed often.
        """
        reach = min(reach, self.MAX_REACH_SECONDS)
        low = max(1, bisect_left(self._times, at - reach))
        high = bisect_left(self._times, at + reach)
        if low >= high:
            return at
        times = self._times
        gaps = list(map(operator.sub, times[low:high], times[low - 1 : high - 1]))
        return times[low + gaps.index(max(gaps))]


@dataclasses.dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens received inside a window, divided by its length.

    Attributes:
        half_width: 95 %, by batch means, in tokens/s; infinite if it is unknown.
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

    Borders of the window and of its batches are moved to the nearest engine step (`snap`), by at
    most a quarter of a batch.
    """
    length = closed - opened
    if length <= 0:
        return Throughput(0.0, math.inf)
    reach = length / (4 * batches)
    borders = [timeline.snap(opened + length * i / batches, reach) for i in range(batches + 1)]
    totals = [timeline.tokens_before(border) for border in borders]
    mean = (totals[-1] - totals[0]) / (borders[-1] - borders[0])
    if mean <= 0:
        # Without a token nothing is known of the rate, and equal zeros prove no certainty.
        return Throughput(mean, math.inf)
    tokens = [after - before for before, after in itertools.pairwise(totals)]
    seconds = [after - before for before, after in itertools.pairwise(borders)]
    return Throughput(mean, ratio_half_width(tokens, seconds))


def is_good(record: Record, slo: Slo) -> bool:
    """Whether a request ended well within both bounds; a one-token output has a TPOT of 0."""
    if record.outcome is not Outcome.OK or record.ttft is None:
        return False
    return record.ttft <= slo.ttft_seconds and (record.tpot or 0.0) <= slo.tpot_seconds


def attainment(records: Iterable[Record], slo: Slo) -> float | None:
    """Good requests by all arrivals; refusals and time-outs are missed, cancellations left out.

    None if there are no arrivals.
    """
    counted = [r for r in records if r.outcome not in {Outcome.CANCELLED, Outcome.PENDING}]
    if not counted:
        return None
    return sum(is_good(record, slo) for record in counted) / len(counted)


_Known = tuple[float, float]
"""The time at which a latency became known, and the latency."""


def _in_order(known: list[_Known]) -> tuple[float, ...]:
    known.sort(key=operator.itemgetter(0))
    return tuple(value for _, value in known)


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """Latency values in seconds, kept whole so that windows can be pooled.

    Each list is in the order in which its values became known, over all requests: intervals need
    the effects of one engine step on all requests together, not one request after the other.
    """

    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()
    itl: tuple[float, ...] = ()
    e2el: tuple[float, ...] = ()

    @classmethod
    def of_window(cls, records: Iterable[Record], opened: float, closed: float) -> "Samples":
        """Take each value that became known (by its last event) inside the window."""
        ttft: list[_Known] = []
        tpot: list[_Known] = []
        itl: list[_Known] = []
        e2el: list[_Known] = []
        for record in records:
            first, end = record.first_token, record.end
            if first is not None and record.ttft is not None and opened <= first < closed:
                ttft.append((first, record.ttft))
            if end is not None and record.e2el is not None and opened <= end < closed:
                e2el.append((end, record.e2el))
                if record.tpot is not None:
                    tpot.append((end, record.tpot))
            for before, at in itertools.pairwise(record.chunk_times):
                if opened <= at < closed:
                    itl.append((at, at - before))
        return cls(*(_in_order(known) for known in (ttft, tpot, itl, e2el)))

    @classmethod
    def of_requests(cls, records: Iterable[Record]) -> "Samples":
        """Take all values of these requests, whenever they ended."""
        return cls.of_window(records, -math.inf, math.inf)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(
            self.ttft + other.ttft,
            self.tpot + other.tpot,
            self.itl + other.itl,
            self.e2el + other.e2el,
        )
