"""A certificate claims no more than is proven."""

import dataclasses

import pytest

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.answers.certify import certify
from partitiond.planner.answers.explain import explain
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.answer import SolveAnswer
from tests.planner.build import gpu, point, want
from tests.planner.problems import plan_for

ONE = PlanRequest(
    (gpu("g0"),),
    (want("a", point("a", 5, 60), rate=7), want("b", point("b", 5, 60), rate=7, min_replicas=1)),
    objective=Objective.MAX_GOODPUT,
)


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


@pytest.mark.parametrize(
    ("least", "objective", "said"),
    [
        (0, Objective.MAX_GOODPUT, ""),
        (0, Objective.MIN_DEVICES, ""),
        (1, Objective.MAX_GOODPUT, "with the least number of replicas of every model that fits"),
        (2, Objective.MIN_DEVICES, "with the least number of replicas of every model that fits"),
    ],
)
def test_a_bound_among_plans_with_least_numbers_is_said_to_be_one(
    least: int, objective: Objective, said: str
) -> None:
    models = (want("a", point("a", 5, 30), rate=500, min_replicas=least),)
    plan = plan_for(dataclasses.replace(ONE, models=models, objective=objective))
    assert plan.certificate.objective is Objective.MAX_GOODPUT
    assert plan.certificate.among == said if not said else said in plan.certificate.among
    assert plan.certificate.among in plan.explanation[0]
