"""The gain of a change is computed, and so is the part that the proofs leave open."""

import dataclasses

import pytest

from partitiond.core.plan.answers import Alternative, alternative
from partitiond.core.plan.record import Certificate, Objective, Plan, Status
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import gpu, point, want


def compared(objective: Objective, old: float, new: float, bound: float) -> Alternative:
    """A plan under a change, beside the plan of what is, by their values and a bound."""
    plan = solve(PlanRequest((gpu("g0"),), (want("a", point("a", 5, 8), rate=4),)))
    assert isinstance(plan, Plan)

    def worth(value: float, bound: float) -> Plan:
        proof = Certificate(objective, value, bound, 0.0, Status.FEASIBLE, "", 0.0)
        return dataclasses.replace(plan, certificate=proof)

    return alternative("changed", worth(old, old), worth(new, bound), (), with_plan=False)


@pytest.mark.parametrize("objective", [Objective.MAX_GOODPUT, Objective.MIN_PRICE])
@pytest.mark.parametrize("size", [1e-3, 1.0, 234.0, 1e6])
def test_what_rounding_leaves_of_a_bound_is_nothing_at_any_size(
    objective: Objective, size: float
) -> None:
    """A proven plan of 234 requests/s was said to gain 4.68e-06 at best."""
    more = -1 if objective.is_cost else 1
    same = compared(objective, size, size, size * (1 + more * 2e-8))
    assert (same.gain, same.gain_at_most) == (0, None)
    open_yet = compared(objective, size, size, size * (1 + more * 1e-4))
    assert open_yet.gain_at_most == pytest.approx(1e-4 * size)
    worse = compared(objective, size, size * (1 - more * 0.1), size * (1 + more * 2e-8))
    assert worse.gain_at_most == 0, "at best the same"
