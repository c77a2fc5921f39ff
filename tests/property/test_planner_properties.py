"""Every plan keeps its invariants, and made again it is the same. Values: `tests/oracle`."""

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitiond.core.plan.record import Infeasible, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from tests.oracle.questions import question_of
from tests.planner.build import gpu, point, want
from tests.planner.problems import request_of, seeds


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
    plan = solved(request)
    assert plan is not None
    assert plan.unplaced == ()
    assert plan.certificate.objective is Objective.MIN_PRICE
    assert abs(plan.certificate.value - count * price) < 1e-6
    assert plan.certificate.bound <= count * price + 1e-6
