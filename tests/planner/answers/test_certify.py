"""A certificate that claims more than its plan bears out is refused."""

import dataclasses

import pytest

from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.plan.record import ModelDemand, Objective, Plan, Status
from partitiond.planner.answers.certify import certify
from partitiond.planner.answers.explain import explain
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.answer import SolveAnswer
from tests.planner.build import gpu, point, want

ONE = PlanRequest(
    (gpu("g0"),),
    (want("a", point("a", 5, 60), rate=7), want("b", point("b", 5, 60), rate=7, min_replicas=1)),
    objective=Objective.MAX_GOODPUT,
)
DEVICES = (gpu("g0", price_per_hour=2.0), gpu("g1"))
MODELS: tuple[ModelDemand, ...] = tuple(
    want(n, dataclasses.replace(point(n, 5, 30, sm=40), watts=80.0), rate=7) for n in "ab"
)


def plan(objective: Objective) -> Plan:
    """A good plan."""
    answer = solve(PlanRequest(DEVICES, MODELS, objective=objective, time_limit_seconds=2))
    assert isinstance(answer, Plan)
    assert check_plan(answer, MODELS) == ()
    return answer


def wrong(made: Plan, **claims: object) -> str:
    """What the checker says of the plan with other claims."""
    proof = dataclasses.replace(made.certificate, **claims)  # type: ignore[arg-type]
    return "; ".join(check_plan(dataclasses.replace(made, certificate=proof), MODELS))


@pytest.mark.parametrize("objective", Objective)
def test_another_value_than_the_plans_is_refused(objective: Objective) -> None:
    made = plan(objective)
    assert "certificate's value" in wrong(made, value=made.certificate.value * 1.5)


@pytest.mark.parametrize("objective", Objective)
def test_a_bound_on_the_wrong_side_is_refused(objective: Objective) -> None:
    made = plan(objective)
    factor = 1.5 if objective.is_cost else 0.5
    assert "better than its bound" in wrong(made, bound=made.certificate.value * factor)


@pytest.mark.parametrize("objective", Objective)
def test_optimal_with_a_gap_is_refused(objective: Objective) -> None:
    made = plan(objective)
    value = made.certificate.value
    bound = value * (0.5 if objective.is_cost else 1.5)
    claims = {"bound": bound, "gap": 0.5, "status": Status.OPTIMAL}
    assert "optimal with a gap" in wrong(made, **claims)


@pytest.mark.parametrize("objective", Objective)
def test_a_best_value_beyond_plan_and_bound_is_refused(objective: Objective) -> None:
    made = plan(objective)
    better, worse = (0.5, 2.0) if objective.is_cost else (2.0, 0.5)
    assert "best value" in wrong(made, best_value=made.certificate.value * worse)
    assert "best value" in wrong(made, best_value=made.certificate.value * better)


def test_a_cost_for_serving_a_part_is_refused() -> None:
    heavy = tuple(
        dataclasses.replace(m, demand=dataclasses.replace(m.demand, req_per_s=70.0)) for m in MODELS
    )
    answer = solve(PlanRequest(DEVICES, heavy, time_limit_seconds=2))
    assert isinstance(answer, Plan)
    used = float(len({p.device_id for p in answer.placements}))
    proof = dataclasses.replace(
        answer.certificate, objective=Objective.MIN_DEVICES, value=used, bound=used, gap=0.0
    )
    said = check_plan(dataclasses.replace(answer, certificate=proof), heavy)
    assert any("in part only" in line for line in said)


def test_leaving_out_a_model_that_would_fit_is_refused() -> None:
    made = plan(Objective.MAX_MIN)
    left = want("c", point("c", 5, 10, sm=10), rate=5)
    said = check_plan(made, (*MODELS, left))
    assert any("left out of max-min" in line for line in said)


def test_a_model_without_a_rate_may_be_left_out_beside_rated_ones() -> None:
    made = plan(Objective.MAX_HEADROOM)
    left = want("c", point("c", 5, 10, sm=10), rate=None)
    assert not any("left out" in line for line in check_plan(made, (*MODELS, left)))


@pytest.mark.parametrize("status", [Status.FEASIBLE, Status.OPTIMAL])
def test_goodput_at_its_bound_is_no_best_plan_while_fewer_of_the_least_replicas_may_be_missing(
    status: Status,
) -> None:
    instance = build_instance(ONE)
    packing = Packing(instance)
    (item,) = (item.index for item in instance.items if instance.needs[item.model].name == "a")
    options = range(len(instance.groups[0].options))
    option = next(k for k in options if packing.fits(0, item, k))
    packing.add(0, item, option)
    value = packing.goodput()
    found = SolveAnswer(packing, Objective.MAX_GOODPUT, value, value, status, "greedy", None, None)
    placements = assign(instance, packing)
    proof = certify(instance, found, placements, {"g0": 1.0}, 0.1)
    assert proof.among
    assert proof.status is status
    summary = explain(instance, found, placements, proof)[0]
    assert ("not proven optimal" in summary) == (status is Status.FEASIBLE)


def test_with_priorities_a_plan_that_lacks_least_replicas_is_optimal_where_that_is_proven() -> None:
    models = tuple(
        want(name, point(name, 5, 60), rate=5, min_replicas=1, rules=PlacementRules(priority=rank))
        for rank, name in enumerate("ba")
    )
    answer = solve(PlanRequest((gpu("g0"),), models, objective=Objective.MAX_GOODPUT))
    assert isinstance(answer, Plan)
    assert [one.model for one in answer.placements] == ["a"]
    assert answer.certificate.status is Status.OPTIMAL
    assert "not proven" not in answer.explanation[0]
