"""Derives what a plan promises each model, and what it would promise if sharing cost nothing."""

import collections
import dataclasses
import math
from collections.abc import Mapping

from partitiond.core.performance.interference import DEFAULT, Interference, level_of, sigma
from partitiond.core.plan.record import ModelForecast, Placement, Plan
from partitiond.core.profile.record import ProfileKind


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """A plan's figures for one model.

    Attributes:
        model: model name.
        slots: sequences that the model's replicas take at once, by their limits.
        capacity_req_per_s: planned capacity, margins applied.
        demand_req_per_s: demand of the model; None for "as much as there is".
        output_tokens_per_s: throughput with every replica at its operating point.
        ttft_p95_seconds, tpot_p95_seconds: latencies of the slowest replica there.
        alone: the last three as if every replica had its device to itself: the prediction without a
            model of sharing.
        profile_kind: kind of the least certain profile behind the forecast.
    """

    model: str
    slots: int
    capacity_req_per_s: float
    demand_req_per_s: float | None
    output_tokens_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    alone: tuple[float, float, float]
    profile_kind: ProfileKind | None = None

    @property
    def served_req_per_s(self) -> float:
        """The rate that the plan claims to serve: the demand, at most the capacity."""
        if self.demand_req_per_s is None:
            return self.capacity_req_per_s
        return min(self.demand_req_per_s, self.capacity_req_per_s)


def device_levels(plan: Plan, interference: Interference = DEFAULT) -> dict[str, float]:
    """Return the level of each used device: sigma of all its replicas, rounded up."""
    placed: dict[str, list[Placement]] = collections.defaultdict(list)
    for placement in plan.placements:
        placed[placement.device_id].append(placement)
    return {device: _level(mine, interference) for device, mine in placed.items()}


def _level(placements: list[Placement], interference: Interference) -> float:
    mode = placements[0].partition.mode
    candidates = [placement.candidate for placement in placements]
    value = sigma(mode, [c.busy for c in candidates], interference, [c.kappa for c in candidates])
    # A checked plan has a level; for an unchecked plan, sigma itself is used.
    return level_of(mode, value, interference) or value


def promises(plan: Plan, interference: Interference = DEFAULT) -> tuple[Promise, ...]:
    """Return the plan's promise to each model that it places, in the order of its forecasts."""
    levels = device_levels(plan, interference)
    return tuple(
        _promise(forecast, plan, levels) for forecast in plan.forecasts if forecast.replicas > 0
    )


def _promise(forecast: ModelForecast, plan: Plan, levels: Mapping[str, float]) -> Promise:
    mine = [p for p in plan.placements if p.model == forecast.model]
    shared = [(p.candidate, levels[p.device_id]) for p in mine]
    return Promise(
        model=forecast.model,
        slots=sum(c.batch for c, _ in shared),
        capacity_req_per_s=forecast.capacity_req_per_s,
        demand_req_per_s=forecast.demand_req_per_s,
        output_tokens_per_s=math.fsum(c.output_tokens_per_s / level for c, level in shared),
        ttft_p95_seconds=max(c.ttft_p95_seconds * level for c, level in shared),
        tpot_p95_seconds=max(c.tpot_p95_seconds * level for c, level in shared),
        alone=(
            math.fsum(c.output_tokens_per_s for c, _ in shared),
            max(c.ttft_p95_seconds for c, _ in shared),
            max(c.tpot_p95_seconds for c, _ in shared),
        ),
        profile_kind=forecast.profile_kind,
    )
