"""A solve reports its progress."""

import math
import types

import pytest

from bench.planner.shipped import request
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import TELL_SECONDS, SolveMonitor
from tests.planner.build import gpus, point, want


def watch(
    objective: Objective, told: list[PlanProgress] | None = None, **more: object
) -> SolveMonitor:
    models = (want("a", point("a", 5, 30, sm=20), rate=5),)
    asked = PlanRequest(gpus(2), models, objective=objective, **more)  # type: ignore[arg-type]
    return SolveMonitor(build_instance(asked), None if told is None else told.append)


def test_the_best_value_stays_the_best() -> None:
    for objective, best in ((Objective.MIN_DEVICES, 3), (Objective.MAX_GOODPUT, 5)):
        seen = watch(objective, deterministic=True, time_limit_seconds=7.0)
        for value in (5.0, 3.0, 4.0):
            seen.record_best(value, f"a plan of {value:g}")
        assert (seen.now().value, seen.now().method) == (best, f"a plan of {best}")
        assert seen.left() == 7, "a deterministic solve has no clock"


def test_the_strongest_bound_stays_and_the_gap_is_between_the_two() -> None:
    seen = watch(Objective.MIN_DEVICES)
    assert seen.now().gap is None
    assert seen.proved(2.0)
    assert not seen.proved(1.0)
    seen.record_best(4.0, "")
    assert seen.now().bound == 2
    assert seen.now().gap == pytest.approx(0.5)
    assert (seen.done, seen.impossible) == (False, False)
    seen.record_best(2.0, "")
    assert (seen.done, seen.impossible) == (True, False)
    seen.proved(math.inf)
    assert seen.now().bound == 2
    assert seen.impossible, "an infinite cost proves that not all can be served"


def test_reports_are_not_told_more_often_than_anyone_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, told = [100.0], list[PlanProgress]()
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("partitiond.planner.progress.watch.time", clock)
    seen = watch(Objective.MAX_GOODPUT, told)
    for value in range(1000):
        seen.record_best(float(value), "")
    assert len(told) == 1
    now[0] += TELL_SECONDS
    seen.record_best(1000.0, "")
    assert len(told) == 2


def test_a_solve_tells_values_that_get_better_and_bounds_that_hold() -> None:
    told: list[PlanProgress] = []
    plan = solve(request("over", 12, 8, 1, 1.0), told.append)
    assert isinstance(plan, Plan)
    values = [p.value for p in told if p.value is not None]
    assert values == sorted(values)
    assert all(v <= plan.certificate.value + 1e-3 for v in values)
    assert all(p.bound is None or p.bound >= plan.certificate.value - 1e-3 for p in told)
