"""Plans made while another one runs pass the planner's own checker after any change."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.property.test_planner_properties import KINDS, Question, questions, solved

FEW = settings(max_examples=4, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=60)
BUDGETS = (None, 0.0, 0.03)


@st.composite
def changed(draw: st.DrawFn, question: Question) -> Question:
    """The same with devices lost, and models gone, grown or held to one replica."""
    devices, models = question
    left: list[Device] = draw(st.lists(st.sampled_from(devices), min_size=1, unique=True))
    kept = draw(st.lists(st.sampled_from(models), min_size=1, unique_by=lambda m: m.model))
    return tuple(left), tuple(_changed(m, draw(st.sampled_from(CHANGES))) for m in kept)


CHANGES = ("none", "one replica", "more", "less")


def _changed(model: ModelDemand, how: str) -> ModelDemand:
    if how == "one replica":
        least = min(1, model.min_replicas)
        return dataclasses.replace(model, max_replicas=1, min_replicas=least)
    rate = model.demand.req_per_s
    if how == "none" or rate is None:
        return model
    demand = dataclasses.replace(model.demand, req_per_s=rate * (2.3 if how == "more" else 0.4))
    return dataclasses.replace(model, demand=demand)


def _replans(data: st.DataObject, kind: str, objective: Objective) -> None:
    """Two plans, the second with the first one running: `solve` refuses what its checker does."""
    ruled, limits = data.draw(st.booleans()), data.draw(st.booleans())
    devices, models = data.draw(questions(kind, rated=False, ruled=ruled, limits=limits))
    before = data.draw(st.sampled_from(Objective))
    first = solve(PlanRequest(devices, models, objective=before, time_limit_seconds=0.5))
    if isinstance(first, Infeasible):
        return
    left, wanted = data.draw(changed((devices, models)))
    budget = data.draw(st.sampled_from(BUDGETS))
    again = PlanRequest(
        left,
        wanted,
        objective=objective,
        time_limit_seconds=0.5,
        running=first.placements,
        move_budget=budget,
    )
    plan = solved(again)
    for f in plan.forecasts if plan is not None else ():
        most = next(m.max_replicas for m in wanted if m.model == f.model)
        assert most is None or f.replicas <= most


@pytest.mark.parametrize("objective", Objective)
@FEW
@given(data=st.data())
def test_whatever_changed_the_new_plan_is_one_its_checker_accepts(
    objective: Objective, data: st.DataObject
) -> None:
    _replans(data, data.draw(st.sampled_from(sorted(KINDS))), objective)


@pytest.mark.full
@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_whatever_changed_on_any_kind_of_partition_the_checker_accepts_the_plan(
    kind: str, objective: Objective, data: st.DataObject
) -> None:
    _replans(data, kind, objective)
