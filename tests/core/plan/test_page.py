"""The part of a large plan that fits on a page is chosen by rule."""

import dataclasses

from partitiond.core.plan import page
from partitiond.core.plan.page import first_of, is_large, worst_served
from partitiond.core.plan.record import ModelForecast, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import gpu, point, want


def gets(
    name: str, capacity: float, wanted: float | None = 10.0, replicas: int = 1
) -> ModelForecast:
    """What a model gets."""
    return ModelForecast(name, replicas, capacity, wanted, 0.1, 0.01, None)


def made(*requests: object, devices: int = 1) -> Plan:
    """The plan of these models."""
    answer = solve(PlanRequest(tuple(gpu(f"g{n}") for n in range(devices)), requests))  # type: ignore[arg-type]
    assert isinstance(answer, Plan)
    return answer


def test_who_has_no_replica_and_least_to_spare_comes_first() -> None:
    models = (
        gets("fine", 20),
        gets("max", 5, None),
        gets("none", 0, 3, replicas=0),
        gets("short", 9),
        gets("none-of-more", 0, 30, replicas=0),
        gets("exact", 10),
        gets("none-of-max", 0, None, replicas=0),
    )
    names = [f.model for f in worst_served(models, 9)]
    assert names == ["none-of-more", "none", "none-of-max", "short", "exact", "fine", "max"]
    assert worst_served((), 6) == ()
    assert [f.model for f in worst_served((gets("b", 9), gets("a", 9)), 2)] == ["a", "b"]
    assert [f.model for f in worst_served(models, 1)] == ["none-of-more"]


def test_a_plan_is_large_by_its_models_or_its_devices() -> None:
    plan = made(want("a", point("a", 5, 4, sm=10), rate=4))
    (forecast,), (placed,) = plan.forecasts, plan.placements
    assert not is_large(plan)
    assert not is_large(dataclasses.replace(plan, forecasts=(forecast,) * page.MANY_MODELS))
    assert is_large(dataclasses.replace(plan, forecasts=(forecast,) * (page.MANY_MODELS + 1)))
    spread = tuple(
        dataclasses.replace(placed, device_id=f"g{n}") for n in range(page.MANY_DEVICES + 1)
    )
    assert not is_large(dataclasses.replace(plan, placements=spread[1:]))
    assert is_large(dataclasses.replace(plan, placements=spread))


def test_what_is_unusual_comes_first_and_the_others_keep_their_order() -> None:
    assert first_of("abcde", [False, True, False, True, False], 4) == ("b", "d", "a", "c")
    assert first_of("ab", [True, True], 1) == ("a",)
    assert first_of("", [], 3) == ()
