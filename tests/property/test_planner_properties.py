"""Every plan keeps its invariants, and made again it is the same. Values: `tests/oracle`."""

import dataclasses

import pytest

from partitiond.core.plan.record import Infeasible, Plan, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from tests.oracle.questions import question_of
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


@pytest.mark.parametrize("seed", seeds(400, 24))
def test_planning_again_with_nothing_changed_changes_nothing(seed: int) -> None:
    """Nor does asking the same question twice."""
    request = request_of(question_of(seed, limited=seed % 3 == 0))
    first = solved(request)
    if first is not None:
        again = solve(dataclasses.replace(request, running=first.placements))
        assert isinstance(again, Plan)
        assert diff_plans(first.placements, again.placements).is_empty
    if seed % 4 == 0:
        twice = solved(request)
        assert (twice and twice.placements) == (first and first.placements)
