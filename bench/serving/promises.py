"""Compares what a plan promises each model with what was measured, figure by figure.

At full load a plan's throughput, TTFT and TPOT predict exactly this situation, so errors in both
directions count. At the demand they are bounds: more latency or fewer good requests than promised
is an error, less latency and more good requests are not.
"""

import collections
import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Final

from partitiond.core.performance.interference import DEFAULT, level_of, sigma
from partitiond.core.plan.record import ModelForecast, Placement, Plan

TOLERANCE: Final = 0.15
"""A figure with a larger relative error is a miss. Chosen, not measured."""


class OfferedLoad(enum.StrEnum):
    """The load that is sent."""

    DEMAND = "demand"
    """Poisson arrivals at the rate that the plan claims to serve."""
    FULL = "full"
    """Every replica holds as many requests as its limit allows, as when its operating point was
    measured: the proxy does not count KV tokens."""


class ComparedFigure(enum.StrEnum):
    """The figures that are compared."""

    THROUGHPUT = "throughput"
    """Output tokens/s."""
    TTFT = "TTFT p95"
    TPOT = "TPOT p95"
    SERVED = "served"
    """Good requests divided by all arrivals, compared with the SLO's quantile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """A plan's figures for one model.

    Attributes:
        served_req_per_s: the rate that the plan claims to serve: the demand, at most the capacity.
        output_tokens_per_s: throughput with every replica at its operating point.
        ttft_p95_seconds, tpot_p95_seconds: latencies of the slowest replica there.
    """

    model: str
    served_req_per_s: float
    output_tokens_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """One model in one window.

    Attributes:
        arrivals: requests that arrived in the window.
        good: how many of these were within the SLO (without an SLO: ended).
        output_tokens_per_s: output tokens received in the window, per second.
        ttft_p95_seconds, tpot_p95_seconds: of requests that ended; None without any.
    """

    arrivals: int
    good: int
    output_tokens_per_s: float
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one model; promised and measured in tokens/s, seconds, or as a share."""

    model: str
    load: OfferedLoad
    figure: ComparedFigure
    promised: float
    got: float

    @property
    def error(self) -> float:
        """(got - promised) / promised; at the demand 0 if the promise was kept."""
        off = self.got / self.promised - 1 if self.promised > 0 else 0.0
        if self.load is OfferedLoad.FULL:
            return off
        return min(0.0, off) if self.figure is ComparedFigure.SERVED else max(0.0, off)

    @property
    def is_miss(self) -> bool:
        """Whether the error exceeds `TOLERANCE`; for the served share, whether it fell short."""
        limit = 0.0 if self.figure is ComparedFigure.SERVED else TOLERANCE
        return abs(self.error) > limit + 1e-9


def promises(plan: Plan) -> tuple[Promise, ...]:
    """Return the plan's promise to each model that it places, in the order of its forecasts."""
    placed: dict[str, list[Placement]] = collections.defaultdict(list)
    for placement in plan.placements:
        placed[placement.device_id].append(placement)
    levels = {device: _level(mine) for device, mine in placed.items()}
    return tuple(_promise(one, plan, levels) for one in plan.forecasts if one.replicas > 0)


def _level(placements: list[Placement]) -> float:
    """Return the level of a device: sigma of all its replicas, rounded up."""
    mode = placements[0].partition.mode
    candidates = [placement.candidate for placement in placements]
    value = sigma(mode, [c.busy for c in candidates], DEFAULT, [c.kappa for c in candidates])
    # A checked plan has a level; for an unchecked plan, sigma itself is used.
    return level_of(mode, value, DEFAULT) or value


def _promise(forecast: ModelForecast, plan: Plan, levels: Mapping[str, float]) -> Promise:
    shared = [
        (p.candidate, levels[p.device_id]) for p in plan.placements if p.model == forecast.model
    ]
    demand = forecast.demand_req_per_s
    capacity = forecast.capacity_req_per_s
    return Promise(
        model=forecast.model,
        served_req_per_s=capacity if demand is None else min(demand, capacity),
        output_tokens_per_s=math.fsum(c.output_tokens_per_s / level for c, level in shared),
        ttft_p95_seconds=max(c.ttft_p95_seconds * level for c, level in shared),
        tpot_p95_seconds=max(c.tpot_p95_seconds * level for c, level in shared),
    )


def differences(
    promise: Promise, outcome: Outcome, load: OfferedLoad, quantile: float
) -> tuple[Difference, ...]:
    """Return every figure that the outcome has; none for a model without arrivals.

    Args:
        promise: the plan's figures for the model.
        outcome: what was measured.
        load: the load of the outcome.
        quantile: share of good requests that the SLO asks for.
    """
    if not outcome.arrivals:
        return ()
    found: list[tuple[ComparedFigure, float, float | None]] = [
        (ComparedFigure.TTFT, promise.ttft_p95_seconds, outcome.ttft_p95_seconds),
        (ComparedFigure.TPOT, promise.tpot_p95_seconds, outcome.tpot_p95_seconds),
    ]
    if load is OfferedLoad.FULL:
        rate = promise.output_tokens_per_s, outcome.output_tokens_per_s
        found.insert(0, (ComparedFigure.THROUGHPUT, *rate))
    else:
        found.insert(0, (ComparedFigure.SERVED, quantile, outcome.good / outcome.arrivals))
    return tuple(
        Difference(promise.model, load, figure, promised, got)
        for figure, promised, got in found
        if got is not None
    )
