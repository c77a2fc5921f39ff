"""Holds plans and their differences, for tests of plans that may be applied automatically."""

import dataclasses
from collections.abc import Iterable, Mapping

from partitiond.core.plan import record
from partitiond.core.plan.record import Certificate, ModelForecast, Objective, Plan, PlanDiff
from tests.core.simulated_host import placement


def diff_of(
    start: Iterable[str] = (), stop: Iterable[str] = (), move: Iterable[str] = ()
) -> PlanDiff:
    """What starts, stops and moves, one replica of each model that is named."""
    return PlanDiff(
        start=tuple(_of(model) for model in start),
        stop=tuple(_of(model) for model in stop),
        move=tuple((_of(model), _of(model)) for model in move),
        keep=(),
    )


def plan_giving(
    capacity_req_per_s: Mapping[str, float], demand_req_per_s: float | None = None
) -> Plan:
    """A plan of which models get so much, without its placements."""
    forecasts = tuple(
        ModelForecast(model, 1, rate, demand_req_per_s, None, None, None)
        for model, rate in capacity_req_per_s.items()
    )
    certificate = Certificate(
        Objective.MIN_DEVICES, 1.0, 1.0, 0.0, record.Status.OPTIMAL, "by hand", 0.0
    )
    return Plan("plan-1", (), (), forecasts, (), certificate, (), "2026-01-01T00:00:00.000Z")


def _of(model: str) -> record.Placement:
    return dataclasses.replace(placement(f"{model}-0"), model=model)
