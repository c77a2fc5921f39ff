"""Each objective means what its name says."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import Demand, FaultDomain, PlacementRules
from partitiond.core.plan.answers import figures_of
from partitiond.core.plan.costs import replica_watts
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.planner.api import solve
from partitiond.planner.model.costs import device_units, true_bound
from partitiond.planner.model.types import PRICE_SCALE, PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want


def plan(devices: object, *models: ModelDemand, objective: Objective, **more: object) -> Plan:
    """The plan of a request that has one."""
    request = PlanRequest(devices, models, objective=objective, time_limit_seconds=3, **more)  # type: ignore[arg-type]
    answer = solve(request)
    assert isinstance(answer, Plan), answer
    return answer


def draws(model: str, rate: float, gib: float, watts: float | None, *, sm: int = 40) -> object:
    """A candidate with a known draw."""
    return dataclasses.replace(point(model, rate, gib, sm=sm, batch=int(gib)), watts=watts)


# --- costs ---------------------------------------------------------------------------------------


def test_of_as_many_devices_the_cheaper_ones_are_used() -> None:
    devices = tuple(gpu(f"g{i}", price_per_hour=p) for i, p in enumerate((3.0, 1.0, 2.5, 1.01)))
    models = [want(n, point(n, 5, 60, sm=10), rate=4) for n in "ab"]
    made = plan(devices, *models, objective=Objective.MIN_DEVICES)
    assert {p.device_id for p in made.placements} == {"g1", "g3"}
    assert (made.certificate.value, made.certificate.status) == (2, Status.OPTIMAL)


@given(st.lists(st.floats(0.0, 1e5), min_size=1, max_size=60))
def test_no_saving_in_price_is_worth_a_device_under_min_devices(prices: list[float]) -> None:
    devices = tuple(gpu(f"g{i}", price_per_hour=p) for i, p in enumerate(prices))
    units = device_units(PlanRequest(devices, (), objective=Objective.MIN_DEVICES))
    assert all(unit >= PRICE_SCALE for unit in units)
    assert sum(unit - PRICE_SCALE for unit in units) < PRICE_SCALE
    for one, cost in zip(prices, units, strict=True):
        assert all(cost >= other for p, other in zip(prices, units, strict=True) if p < one)


@given(st.lists(st.sampled_from((0.5, 1.0, 4.0)), min_size=1, max_size=9), st.integers(1, 9))
def test_a_bound_with_ties_never_asks_for_more_devices_than_a_plan_has(
    prices: list[float], count: int
) -> None:
    devices = tuple(gpu(f"g{i}", price_per_hour=p) for i, p in enumerate(prices))
    request = PlanRequest(devices, (), objective=Objective.MIN_DEVICES)
    some = sorted(device_units(request))[:count]
    assert true_bound(request, sum(some) / PRICE_SCALE) <= len(some)
    assert true_bound(request, float(len(some))) == len(some)


@pytest.mark.parametrize("objective", [Objective.MIN_POWER, Objective.MIN_ENERGY])
def test_a_device_of_unknown_power_is_a_clear_error(objective: Objective) -> None:
    model = want("a", dataclasses.replace(on_cores("a", 5, 1), watts=5.0), rate=4)
    with pytest.raises(SpecError) as refused:
        solve(PlanRequest((cpu(2),), (model,), objective=objective))
    assert "cpu" in str(refused.value)
    assert "max_watts" in refused.value.hint


def test_min_energy_takes_the_point_that_costs_least_energy_a_request() -> None:
    thrifty, quick = draws("a", 5, 30, 50.0), draws("a", 20, 30, 400.0)
    made = plan((gpu(),), want("a", thrifty, quick, rate=9), objective=Objective.MIN_ENERGY)  # type: ignore[arg-type]
    assert {p.candidate.watts for p in made.placements} == {50.0}
    # Two replicas, each busy for 9 / 10 of the time, and the idle device.
    assert made.certificate.value == pytest.approx(2 * 50 * 0.9 + 60, rel=1e-3)
    assert made.forecasts[0].watts == pytest.approx(90, rel=0.02)


@pytest.mark.parametrize("runs", [False, True])
def test_min_energy_fills_no_room_that_is_left_over(runs: bool) -> None:
    """Each replica is charged, so one that nobody needs makes the plan worse."""
    models = [
        want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4),
        want("rest", point("rest", 5, 10, sm=10, watts=40.0)),
    ]
    running = plan((gpu(),), *models, objective=Objective.MIN_PRICE).placements
    assert len(running) > 2, "where replicas cost nothing the room is filled"
    made = plan((gpu(),), *models, objective=Objective.MIN_ENERGY, running=running if runs else ())
    assert [p.model for p in made.placements] == ["a", "rest"]
    proof = made.certificate
    assert (proof.status, proof.best_value) == (Status.OPTIMAL, None)
    assert proof.value == pytest.approx(60 + 50 * 4 / 5 + 40, rel=1e-3)


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


@given(st.floats(1, 500), st.floats(0.5, 50), st.floats(0.1, 400), st.integers(0, 3))
def test_the_charge_of_replicas_of_one_kind_is_what_they_draw(
    watts: float, capacity: float, rate: float, least: int
) -> None:
    count = max(1, least, math.ceil(rate / capacity * (1 - 1e-9)))
    charged = count * replica_watts(watts, capacity, rate, least)
    assert charged == pytest.approx(watts * rate / capacity)


# --- max-min and max-headroom --------------------------------------------------------------------


def test_max_min_gives_what_is_left_to_goodput() -> None:
    stuck = want("stuck", point("stuck", 5, 30, sm=10), rate=100, max_replicas=1)
    open_end = want("open", point("open", 5, 10, sm=10), rate=100)
    made = plan((gpu("g0"), gpu("g1")), stuck, open_end, objective=Objective.MAX_MIN)
    assert made.certificate.value == pytest.approx(0.05)
    assert {f.model: f.replicas for f in made.forecasts}["open"] >= 6


@pytest.mark.parametrize("objective", [Objective.MAX_MIN, Objective.MAX_HEADROOM])
def test_a_model_no_device_is_open_to_is_left_out_of_the_smallest_share(
    objective: Objective,
) -> None:
    closed = gpu("closed", max_replicas=0)
    cut = gpu("cut", hardware="a100-40gb", occupied_slices=(0, 1))
    models = (
        want("served", on_cores("served", 5, 1), rate=4),
        want("shut", point("shut", 5, 10, sm=10), rate=4),
        want("no-mig", point("no-mig", 5, 10, sm=10, hardware="a100-40gb"), rate=4),
    )
    made = plan((cpu(), closed, cut), *models, objective=objective)
    assert made.certificate.objective is objective
    assert made.certificate.value > 0
    assert {u.model for u in made.unplaced} == {"shut", "no-mig"}


@pytest.mark.parametrize("objective", Objective)
def test_of_two_running_replicas_one_stops_where_only_one_is_wanted(objective: Objective) -> None:
    devices = (gpu("g0", max_watts=300.0), gpu("g1", max_watts=300.0))
    both = want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4, min_replicas=2, max_replicas=2)
    first = plan(devices, both, objective=objective)
    one = dataclasses.replace(both, min_replicas=0, max_replicas=1)
    again = plan(devices, one, objective=objective, running=first.placements)
    assert len(first.placements) == 2
    assert [p in first.placements for p in again.placements] == [True]


@pytest.mark.parametrize("objective", Objective)
def test_a_model_that_must_survive_a_loss_with_one_replica_is_served_as_far_as_that_goes(
    objective: Objective,
) -> None:
    devices = (gpu("g0", max_watts=300.0), gpu("g1", max_watts=300.0))
    rules = PlacementRules(survive=FaultDomain.DEVICE)
    model = want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4, max_replicas=1, rules=rules)
    made = plan(devices, model, objective=objective)
    assert len(made.placements) == 1
    assert [u.model for u in made.unplaced] == ["a"]
    if objective is Objective.MAX_HEADROOM:
        assert (made.certificate.value, made.certificate.status) == (0, Status.OPTIMAL)


def test_nothing_wanted_is_an_empty_plan_under_every_objective() -> None:
    for objective in Objective:
        made = plan((gpu(),), objective=objective)
        assert (made.placements, made.certificate.value) == ((), 0)


def test_no_device_is_infeasible_under_every_objective() -> None:
    model = want("a", draws("a", 5, 10, 50.0), rate=4)  # type: ignore[arg-type]
    for objective in Objective:
        answer = solve(PlanRequest((), (model,), objective=objective))
        assert isinstance(answer, Infeasible)


def test_demand_is_planned_with_its_burst_under_headroom_too() -> None:
    calm = want("a", point("a", 5, 10, sm=10), rate=4)
    bursty = dataclasses.replace(calm, demand=Demand(req_per_s=4, burst_factor=2))
    one = plan((gpu(),), calm, objective=Objective.MAX_HEADROOM)
    two = plan((gpu(),), bursty, objective=Objective.MAX_HEADROOM)
    assert two.certificate.value == pytest.approx(one.certificate.value / 2)
