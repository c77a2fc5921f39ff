"""Measures one model's outcome in a simulation: rates, latencies and the share of good requests.

Figures follow the definitions: throughput counts tokens received inside the window, a request is
good if it ended with TTFT and TPOT within the SLO, and refused requests count as not good.
"""

import dataclasses

from loadgen.results.statistics import percentile
from partitiond.core.model.spec import Slo
from partitiond.simulated.replay.dispatch import SimulatedRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """One model in one window.

    Attributes:
        seconds: length of the window.
        arrivals: requests that arrived in the window.
        answered: how many of these ended.
        refused: how many of these were refused.
        good: how many of these were within the SLO (without an SLO: ended).
        output_tokens_per_s: output tokens received in the window, per second.
        ttft_p95_seconds, tpot_p95_seconds: of requests that ended; None without any.
        preemptions: preemptions in the model's engines since the start.
    """

    seconds: float
    arrivals: int
    answered: int
    refused: int
    good: int
    output_tokens_per_s: float
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None
    ttft_p50_seconds: float | None = None
    tpot_p50_seconds: float | None = None
    preemptions: int = 0

    @property
    def req_per_s(self) -> float:
        """Requests of the window that ended, per second of the window."""
        return self.answered / self.seconds

    @property
    def goodput_req_per_s(self) -> float:
        """Good requests per second."""
        return self.good / self.seconds

    @property
    def attainment(self) -> float | None:
        """Good requests divided by all arrivals; None without arrivals."""
        return self.good / self.arrivals if self.arrivals else None


class Observer:
    """Observes one model: the requests that arrive in the window, and the tokens received in it.

    Attributes:
        pending: requests of the window that have not ended yet.
    """

    def __init__(self, opened: float, closed: float) -> None:
        self.opened, self.closed = opened, closed
        self.pending = 0
        self._flights: list[SimulatedRequest] = []
        self._tokens = 0.0

    def sent(self, flight: SimulatedRequest) -> None:
        """Record an arriving request."""
        if self.opened <= flight.arrived < self.closed:
            self._flights.append(flight)
            self.pending += 1

    def done(self, flight: SimulatedRequest) -> None:
        """Record a request that ended or was refused."""
        if self.opened <= flight.arrived < self.closed:
            self.pending -= 1

    def tokens(self, began: float, ended: float, count: int) -> None:
        """Record tokens sent evenly from `began` to `ended`; tokens in the window count."""
        inside = min(ended, self.closed) - max(began, self.opened)
        if inside > 0:
            self._tokens += count * inside / (ended - began)

    def outcome(self, slo: Slo | None, preemptions: int = 0) -> Outcome:
        """Return the figures of the window, from the requests that have ended."""
        ended = [f for f in self._flights if f.ended is not None]
        ttft = sorted(f.ttft_seconds for f in ended if f.ttft_seconds is not None)
        tpot = sorted(f.tpot_seconds for f in ended if f.tpot_seconds is not None)
        return Outcome(
            seconds=self.closed - self.opened,
            arrivals=len(self._flights),
            answered=len(ended),
            refused=sum(f.rejected is not None for f in self._flights),
            good=sum(is_good(flight, slo) for flight in ended),
            output_tokens_per_s=self._tokens / (self.closed - self.opened),
            ttft_p95_seconds=_percentile(ttft, 0.95),
            tpot_p95_seconds=_percentile(tpot, 0.95),
            ttft_p50_seconds=_percentile(ttft, 0.5),
            tpot_p50_seconds=_percentile(tpot, 0.5),
            preemptions=preemptions,
        )


def is_good(flight: SimulatedRequest, slo: Slo | None) -> bool:
    """Return whether an ended request is within both bounds; the TPOT of a single token counts as
    0.
    """
    if slo is None:
        return True
    ttft = flight.ttft_seconds
    return (
        ttft is not None
        and ttft <= slo.ttft_seconds
        and (flight.tpot_seconds or 0.0) <= slo.tpot_seconds
    )


def _percentile(ordered: list[float], share: float) -> float | None:
    return percentile(ordered, share) if ordered else None
