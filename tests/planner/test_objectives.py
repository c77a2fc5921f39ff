"""Each objective means what its name says."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.answers import figures_of
from partitiond.core.plan.record import ModelDemand, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.solver_costs import device_units, true_bound, true_value
from partitiond.planner.model.types import PRICE_SCALE, PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want
from tests.planner.problems import plan_for


def plan(devices: object, *models: ModelDemand, objective: Objective, **more: object) -> Plan:
    """The plan of a request that has one."""
    request = PlanRequest(devices, models, objective=objective, time_limit_seconds=3, **more)  # type: ignore[arg-type]
    return plan_for(request)


def draws(model: str, rate: float, gib: float, watts: float | None, *, sm: int = 40) -> object:
    """A candidate with a known draw."""
    return dataclasses.replace(point(model, rate, gib, sm=sm, batch=int(gib)), watts=watts)


@given(st.lists(st.floats(0.0, 1e5), min_size=1, max_size=60), st.integers(1, 60))
def test_no_saving_in_price_is_worth_a_device_under_min_devices(
    prices: list[float], count: int
) -> None:
    """Of as many devices the cheaper ones cost less; a bound asks for whole devices."""
    devices = tuple(gpu(f"g{i}", price_per_hour=p) for i, p in enumerate(prices))
    request = PlanRequest(devices, (), objective=Objective.MIN_DEVICES)
    units = device_units(request)
    assert all(unit >= PRICE_SCALE for unit in units)
    assert sum(unit - PRICE_SCALE for unit in units) < PRICE_SCALE
    for one, cost in zip(prices, units, strict=True):
        assert all(cost >= other for p, other in zip(prices, units, strict=True) if p < one)
    some = sorted(units)[:count]
    assert true_bound(request, sum(some) / PRICE_SCALE) <= len(some)
    assert true_bound(request, float(len(some))) == len(some)
    assert true_value(request, len(some) + 0.5) == len(some)
    assert true_value(dataclasses.replace(request, objective=Objective.MAX_MIN), 0.5) == 0.5


def test_a_device_of_unknown_power_is_a_clear_error() -> None:
    model = want("a", dataclasses.replace(on_cores("a", 5, 1), watts=5.0), rate=4)
    with pytest.raises(SpecError) as refused:
        solve(PlanRequest((cpu(2),), (model,), objective=Objective.MIN_ENERGY))
    assert "cpu" in str(refused.value)
    assert "max_watts" in refused.value.hint


def test_the_charge_of_a_replica_that_is_there_to_survive_is_not_called_a_draw() -> None:
    """Both are charged in full and share the demand: the plan draws less than its own bound."""
    devices = (gpu("g0", rack="r0"), gpu("g1", rack="r1"))
    rules = PlacementRules(survive=FaultDomain.RACK, survive_share=1.0)
    model = want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4, rules=rules)
    made = plan(devices, model, objective=Objective.MIN_ENERGY)
    assert made.certificate.bound == pytest.approx(2 * (60 + 50 * 4 / 5), rel=1e-3)
    assert figures_of(made).draw_watts == pytest.approx(2 * 60 + 50 * 4 / 5, rel=1e-3)
    assert "are charged 200 W, no plan's less than 200 (" in made.explanation[0]
    assert "draw" not in made.explanation[0]


def test_a_model_of_unknown_draw_is_unplaced_under_min_energy_with_that_reason() -> None:
    models = (
        want("known", draws("known", 5, 30, 50.0), rate=4),  # type: ignore[arg-type]
        want("unknown", point("unknown", 5, 30, sm=40), rate=4),
    )
    made = plan((gpu(),), *models, objective=Objective.MIN_ENERGY)
    assert [u.model for u in made.unplaced] == ["unknown"]
    assert "draws" in made.unplaced[0].reason
