"""Leaving out dominated sizes changes no optimum, and implied rates no bound too far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.bounds.prices import bound_of
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.rule_search import search_rules
from tests.planner.brute import try_everything
from tests.property.test_planner_properties import KINDS, MANY, Question, questions


def _instance(question: Question, objective: Objective) -> Instance:
    devices, wanted = question
    return build_instance(PlanRequest(devices, wanted, objective=objective))


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data(), objective=st.sampled_from((Objective.MIN_PRICE, Objective.MIN_ENERGY)))
def test_sizes_that_others_beat_are_not_missed(
    kind: str, data: st.DataObject, objective: Objective
) -> None:
    question = data.draw(questions(kind, rated=False, limits=True, ruled=True))
    best = try_everything(*question, objective)
    instance = _instance(question, objective)
    if best is None or instance.hopeless:
        return
    every = list(range(len(question[0])))
    found = solve_exact(instance, Goal.COST, every, None, deterministic_seconds=5)
    assert found.status is Status.OPTIMAL
    assert found.packing is not None
    scale = 1.0 if objective is Objective.MIN_PRICE else max(1.0, abs(best))
    assert abs(found.packing.cost() - best) < 1e-3 * len(every) * scale


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_no_plan_costs_less_than_a_bound_that_knows_what_survives(
    kind: str, data: st.DataObject
) -> None:
    question = data.draw(questions(kind, rated=False, limits=True, ruled=True))
    best = try_everything(*question, Objective.MIN_PRICE)
    instance = _instance(question, Objective.MIN_PRICE)
    bound = bound_of(instance, as_cost=True)
    if best is not None and not instance.hopeless:
        assert bound is not None
        assert bound <= best + 1e-3


@pytest.mark.parametrize("kind", ["mps", "mixed"])
@MANY
@given(data=st.data())
def test_a_search_over_few_devices_keeps_all_rules_and_never_gets_worse(
    kind: str, data: st.DataObject
) -> None:
    devices, wanted = data.draw(questions(kind, limits=True, ruled=True))
    instance = build_instance(
        PlanRequest(devices, wanted, objective=Objective.MIN_PRICE, deterministic=True)
    )
    if instance.hopeless:
        return
    every = list(range(len(devices)))
    start = solve_exact(instance, Goal.GOODPUT, every, None, deterministic_seconds=2).packing
    if start is None or start.lacking():
        return
    packing = search_rules(SolveMonitor(instance), start, by_cost=True, seconds=3).packing
    assert packing.lacking() == []
    assert packing.cost_units() <= start.cost_units()
    again = search_rules(SolveMonitor(instance), start, by_cost=True, seconds=3).packing
    assert [load.items for load in again.loads] == [load.items for load in packing.loads]
