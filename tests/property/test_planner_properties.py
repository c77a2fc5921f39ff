"""Every plan keeps its invariants: alone, again, and after any change. Values: `tests/oracle`."""

import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitiond.core.plan.record import MAX_MOVE_PRICE, Infeasible, ModelDemand, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.baselines import first_fit
from tests.oracle.questions import question_of
from tests.planner.build import gpu, point, want
from tests.planner.problems import request_of, seeds

PRICES = (0.0, 0.25, MAX_MOVE_PRICE)


def solved(request: PlanRequest) -> Plan | None:
    """A plan that its checker accepts, or None where nothing can be placed, with reasons."""
    answer = solve(request)
    if isinstance(answer, Infeasible):
        assert answer.reasons
        assert all(reason.strip() for reason in answer.reasons)
        return None
    memory = request.host_memory_bytes
    assert check_plan(answer, request.models, request.interference, memory) == ()
    return answer


def asked_of(seed: int) -> PlanRequest:
    """A question; others hold parts of the devices of every third one."""
    return request_of(question_of(seed, limited=seed % 3 == 0))


@pytest.mark.parametrize("seed", seeds(400, 24))
def test_planning_again_with_nothing_changed_changes_nothing(seed: int) -> None:
    """Nor does asking the same question twice."""
    request = asked_of(seed)
    first = solved(request)
    if first is not None:
        again = solve(dataclasses.replace(request, running=first.placements))
        assert isinstance(again, Plan)
        assert {*again.placements} == {*first.placements}
    if seed % 4 == 0:
        twice = solved(asked_of(seed))
        assert (twice and twice.placements) == (first and first.placements)


@settings(max_examples=6)
@given(st.integers(1, 500), st.integers(1, 4))
@example(57, 1)
@example(57, 2)
@example(11, 23)
def test_any_price_in_cents_is_planned_like_a_round_one(cents: int, count: int) -> None:
    """No two of the models fit one device, though the sum of their memory fits fewer."""
    price = cents / 100
    devices = tuple(gpu(f"gpu-{i}", price_per_hour=price) for i in range(count + 1))
    wanted = tuple(want(f"m{i}", point(f"m{i}", 5, 50), rate=1) for i in range(count))
    request = PlanRequest(devices, wanted, objective=Objective.MIN_PRICE, deterministic=True)
    instance = build_instance(request)
    packing = first_fit(instance)
    assert packing.cost_units() // instance.groups[0].price == count

    plan = solved(request)
    assert plan is not None
    assert plan.unplaced == ()
    assert plan.certificate.objective is Objective.MIN_PRICE
    assert abs(plan.certificate.value - count * price) < 1e-6
    assert plan.certificate.bound <= count * price + 1e-6


def _changed(rng: random.Random, model: ModelDemand) -> ModelDemand:
    how = rng.choice(("none", "one replica", "more", "less"))
    if how == "one replica":
        least = min(1, model.min_replicas)
        return dataclasses.replace(model, max_replicas=1, min_replicas=least)
    rate = model.demand.req_per_s
    if how == "none" or rate is None:
        return model
    demand = dataclasses.replace(model.demand, req_per_s=rate * (2.3 if how == "more" else 0.4))
    return dataclasses.replace(model, demand=demand)


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", seeds(60, 3))
def test_whatever_changed_the_new_plan_is_one_its_checker_accepts(
    seed: int, objective: Objective
) -> None:
    """Devices lost, and models gone, grown or held to one replica, while the first plan runs."""
    rng = random.Random(f"{seed} {objective}")
    request = asked_of(rng.randrange(1_000))
    first = solve(request)
    if isinstance(first, Infeasible):
        return
    left = rng.sample(request.devices, rng.randint(1, len(request.devices)))
    kept = rng.sample(request.models, rng.randint(1, len(request.models)))
    wanted = tuple(_changed(rng, m) for m in kept)
    again = dataclasses.replace(
        request,
        devices=tuple(left),
        models=wanted,
        objective=objective,
        running=first.placements,
        move_price=rng.choice(PRICES),
    )
    # `solve` refuses what its checker does.
    plan = solve(again)
    for f in plan.forecasts if isinstance(plan, Plan) else ():
        most = next(m.max_replicas for m in wanted if m.model == f.model)
        assert most is None or f.replicas <= most
