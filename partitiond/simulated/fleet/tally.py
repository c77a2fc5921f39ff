"""Counts the requests of one model of a fleet, and keeps every request's latencies."""

import array
import dataclasses
from collections.abc import Iterable

from loadgen.results.statistics import percentile
from partitiond.core.dispatch.admission import Rejected
from partitiond.core.model.spec import Slo
from partitiond.simulated.fleet.dispatch import FinishedRequest
from partitiond.simulated.fleet.engine import FleetRequest


@dataclasses.dataclass(frozen=True, slots=True)
class LatencyCounts:
    """Percentiles in seconds; None without a request."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ServedCounts:
    """Figures of one model, or of all models, in the window.

    Attributes:
        arrivals: requests that arrived in the window.
        answered: how many of these ended.
        refused: how many of these were refused, by the code of the refusal.
        good: how many of these were within the SLO (without an SLO: ended).
        unfinished: how many of these still waited or ran when the simulation ended.
        goodput_req_per_s: good requests per second of the window.
        output_tokens: tokens of requests that ended.
        ttft, tpot: latencies of requests that ended.
    """

    arrivals: int
    answered: int
    refused: dict[str, int]
    good: int
    unfinished: int
    goodput_req_per_s: float
    output_tokens: int
    ttft: LatencyCounts
    tpot: LatencyCounts

    @property
    def attainment(self) -> float | None:
        """Good requests divided by all arrivals; None without arrivals."""
        return self.good / self.arrivals if self.arrivals else None


class Tally(FinishedRequest):
    """Counts the requests of one model that arrived from `opened` on."""

    def __init__(self, slo: Slo | None, opened: float = 0.0) -> None:
        self._opened = opened
        self._bounded = slo is not None
        self._ttft_bound = slo.ttft_seconds if slo is not None else 0.0
        self._tpot_bound = slo.tpot_seconds if slo is not None else 0.0
        self._answered = 0
        self._good = 0
        self._tokens = 0
        self._refused: dict[str, int] = {}
        self._ttft = array.array("d")
        self._tpot = array.array("d")

    def answered(self, request: FleetRequest) -> None:
        """Record that a request got its last token."""
        output_tokens = request.output_tokens
        arrived = request.arrived
        if arrived < self._opened:
            return
        self._answered += 1
        self._tokens += output_tokens
        ttft = request.first - arrived
        tpot = 0.0
        self._ttft.append(ttft)
        if output_tokens > 1:
            tpot = (request.ended - request.first) / (output_tokens - 1)
            self._tpot.append(tpot)
        if not self._bounded or (ttft <= self._ttft_bound and tpot <= self._tpot_bound):
            self._good += 1

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        """Record that a request was refused."""
        if request.arrived >= self._opened:
            self._refused[rejected.code] = self._refused.get(rejected.code, 0) + 1

    def served(self, seconds: float, arrivals: int) -> ServedCounts:
        """Return the figures of the window, for this number of arrivals."""
        return ServedCounts(
            arrivals=arrivals,
            answered=self._answered,
            refused=dict(sorted(self._refused.items())),
            good=self._good,
            unfinished=arrivals - self._answered - sum(self._refused.values()),
            goodput_req_per_s=self._good / seconds,
            output_tokens=self._tokens,
            ttft=_latency([self._ttft]),
            tpot=_latency([self._tpot]),
        )


def sum_of_models(
    tallies: Iterable[Tally], each: Iterable[ServedCounts], seconds: float
) -> ServedCounts:
    """Return the figures of all models together."""
    all_of, parts = list(tallies), list(each)
    refused: dict[str, int] = {}
    for part in parts:
        for code, count in part.refused.items():
            refused[code] = refused.get(code, 0) + count
    good = sum(part.good for part in parts)
    return ServedCounts(
        arrivals=sum(part.arrivals for part in parts),
        answered=sum(part.answered for part in parts),
        refused=dict(sorted(refused.items())),
        good=good,
        unfinished=sum(part.unfinished for part in parts),
        goodput_req_per_s=good / seconds,
        output_tokens=sum(part.output_tokens for part in parts),
        ttft=_latency([tally._ttft for tally in all_of]),
        tpot=_latency([tally._tpot for tally in all_of]),
    )


def _latency(values: "list[array.array[float]]") -> LatencyCounts:
    ordered: list[float] = []
    for part in values:
        ordered.extend(part)
    if not ordered:
        return LatencyCounts()
    ordered.sort()
    return LatencyCounts(*(percentile(ordered, share) for share in (0.5, 0.95, 0.99)))
