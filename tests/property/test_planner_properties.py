"""Every plan keeps its invariants, on random small instances, against trying everything."""

import dataclasses

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import bound_of
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.baselines import first_fit
from tests.planner.brute import patterns, try_everything
from tests.planner.build import gpu, point, want
from tests.planner.strategies import MIXED, fleets, models

QUICK = settings(max_examples=10, suppress_health_check=list(HealthCheck))
MANY = settings(QUICK, max_examples=100)
"""Hundreds over all kinds, in the slow tests."""
CORES = (SharingMode.CORES,)
KINDS = {
    "whole": (SharingMode.WHOLE,),
    "memory": (SharingMode.MEMORY,),
    "mps": (SharingMode.MPS,),
    "mig": (SharingMode.MIG,),
    "cores": CORES,
    "mixed": MIXED,
}
COSTS = tuple(objective for objective in Objective if objective.is_cost)
PLACES = ("node-0", "node-1", "rack-0", "gpu-0", "cpu-0", "a100-80gb", "cpu-test", "nowhere")
MOST_COMBINATIONS = 60_000
"""Ways to load all devices together that a test tries; instances with more are drawn anew."""

Question = tuple[tuple[Device, ...], tuple[ModelDemand, ...]]


@st.composite
def questions(
    draw: st.DrawFn, kind: str, *, rated: bool = True, limits: bool = False, ruled: bool = False
) -> Question:
    """Devices and models of one partition kind, few enough to try everything."""
    devices = draw(fleets(KINDS[kind], limits=limits))
    wanted = draw(models(KINDS[kind], rated=rated, places=PLACES if ruled else ()))
    combinations = 1
    for device in devices:
        combinations *= len(patterns(device, wanted))
    assume(combinations <= MOST_COMBINATIONS)
    return devices, wanted


def solved(request: PlanRequest) -> Plan | None:
    """A plan that its checker accepts, or None where nothing can be placed, with reasons."""
    answer = solve(request)
    if isinstance(answer, Infeasible):
        assert answer.reasons
        assert all(reason.strip() for reason in answer.reasons)
        return None
    assert check_plan(answer, request.models) == ()
    return answer


def _close(one: float, other: float) -> bool:
    """Rates are planned in 0.0001 requests/s and costs in as much."""
    return abs(one - other) <= 1e-2 + 1e-4 * abs(other)


def _agrees(question: Question, objective: Objective) -> None:
    """The plan serves everything exactly when that is possible, and optimal means optimal."""
    devices, wanted = question
    best = try_everything(devices, wanted, objective)
    # A common factor has to be proven, or another objective is planned: by work, not by the clock.
    request = PlanRequest(devices, wanted, objective=objective, time_limit_seconds=3)
    scaled = objective in {Objective.MAX_MIN, Objective.MAX_HEADROOM}
    plan = solved(dataclasses.replace(request, deterministic=scaled))
    if objective.is_cost:
        served = plan is not None and not plan.unplaced
        assert served == (best is not None)
    if plan is None or best is None:
        return
    proof = plan.certificate
    assert proof.objective is objective
    if objective.is_cost:
        assert proof.bound <= best + 1e-2
        assert proof.value >= best - 1e-2
    elif not _short(plan, wanted):
        assert proof.bound >= best - 1e-2 - 1e-4 * best
        assert proof.value <= best + 1e-2 + 1e-4 * best
    if proof.status is Status.OPTIMAL and not _short(plan, wanted):
        assert _close(proof.value, best)


def _short(plan: Plan, wanted: tuple[ModelDemand, ...]) -> bool:
    """Whether least numbers of replicas are not met, which trying everything insists on."""
    held = {f.model: f.replicas for f in plan.forecasts}
    return any(held[m.model] < m.min_replicas for m in wanted)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data(), objective=st.sampled_from(COSTS))
def test_everything_is_served_exactly_when_that_is_possible_and_optimal_means_optimal(
    kind: str, data: st.DataObject, objective: Objective
) -> None:
    _agrees(data.draw(questions(kind)), objective)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data(), objective=st.sampled_from([o for o in Objective if not o.is_cost]))
def test_the_most_for_what_there_is_is_what_trying_everything_finds(
    kind: str, data: st.DataObject, objective: Objective
) -> None:
    _agrees(data.draw(questions(kind)), objective)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_limits_of_devices_are_kept_and_cost_nothing_else(kind: str, data: st.DataObject) -> None:
    _agrees(data.draw(questions(kind, limits=True)), Objective.MIN_PRICE)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data(), objective=st.sampled_from((Objective.MIN_DEVICES, Objective.MIN_PRICE)))
def test_rules_are_kept_exactly_when_they_can_be(
    kind: str, data: st.DataObject, objective: Objective
) -> None:
    _agrees(data.draw(questions(kind, rated=False, ruled=True)), objective)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_rules_are_kept_where_not_everything_fits(kind: str, data: st.DataObject) -> None:
    devices, wanted = data.draw(questions(kind, ruled=True))
    _agrees((devices[:1], wanted), Objective.MAX_GOODPUT)


@pytest.mark.full
@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_every_objective_on_every_kind_of_partition_agrees_with_trying_everything(
    kind: str, objective: Objective, data: st.DataObject
) -> None:
    _agrees(data.draw(questions(kind, limits=data.draw(st.booleans()))), objective)


@pytest.mark.full
@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_every_rule_under_every_objective_agrees_with_trying_everything(
    kind: str, objective: Objective, data: st.DataObject
) -> None:
    _agrees(data.draw(questions(kind, rated=False, limits=True, ruled=True)), objective)


def _two_thirds_each(count: int) -> tuple[ModelDemand, ...]:
    """Models of which no two fit one device, though the sum of their memory fits fewer."""
    return tuple(want(f"m{i}", point(f"m{i}", 5, 50), rate=1) for i in range(count))


@QUICK
@given(st.integers(1, 500), st.integers(1, 4))
@example(57, 1)
@example(57, 2)
@example(11, 23)
def test_any_price_in_cents_is_planned_like_a_round_one(cents: int, count: int) -> None:
    price = cents / 100
    devices = tuple(gpu(f"gpu-{i}", price_per_hour=price) for i in range(count + 1))
    wanted = _two_thirds_each(count)
    request = PlanRequest(devices, wanted, objective=Objective.MIN_PRICE, time_limit_seconds=2)
    instance = build_instance(request)
    packing = first_fit(instance, best=False)
    assert packing.cost_units() // instance.groups[0].price == count

    plan = solved(request)
    assert plan is not None
    assert plan.unplaced == ()
    assert plan.certificate.objective is Objective.MIN_PRICE
    assert abs(plan.certificate.value - count * price) < 1e-6
    assert plan.certificate.bound <= count * price + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data(), objective=st.sampled_from(COSTS))
def test_the_weighted_resource_bound_is_never_worse_than_the_optimum(
    kind: str, data: st.DataObject, objective: Objective
) -> None:
    devices, wanted = data.draw(questions(kind))
    best = try_everything(devices, wanted, objective)
    instance = build_instance(PlanRequest(devices, wanted, objective=objective))
    if best is not None and not instance.hopeless:
        bound = bound_of(instance, as_cost=True)
        assert bound is not None
        # Under min-devices a device costs 1 and a trifle of its price.
        slack = 2e-3 * len(devices) if objective is Objective.MIN_DEVICES else 1e-3
        assert bound <= best + slack


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data(), objective=st.sampled_from(Objective), ruled=st.booleans())
def test_planning_again_with_nothing_changed_changes_nothing(
    kind: str, data: st.DataObject, objective: Objective, ruled: bool
) -> None:
    devices, wanted = data.draw(questions(kind, rated=False, ruled=ruled))
    # Deterministic: a first plan that a busy machine cuts off may be bettered by the second.
    request = PlanRequest(
        devices, wanted, objective=objective, time_limit_seconds=2, deterministic=True
    )
    first = solved(request)
    if first is None:
        return
    again = solved(dataclasses.replace(request, running=first.placements))
    assert again is not None
    assert {p.replica_id: p for p in again.placements} == {
        p.replica_id: p for p in first.placements
    }


@QUICK
@given(data=st.data(), ruled=st.booleans())
def test_equal_requests_give_equal_plans(data: st.DataObject, ruled: bool) -> None:
    devices, wanted = data.draw(questions("mixed", rated=False, ruled=ruled))
    request = PlanRequest(devices, wanted, time_limit_seconds=2, deterministic=True)
    one, two = solved(request), solved(request)
    assert (one.placements if one else None) == (two.placements if two else None)
