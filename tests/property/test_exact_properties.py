"""The exact model agrees with trying everything, for every partition kind and rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete
from partitiond.planner.pack.packing import Packing, lonely, shunned
from tests.planner.brute import try_everything
from tests.property.test_planner_properties import KINDS, MANY, Question, questions


def _exact(question: Question) -> tuple[Packing | None, Status]:
    devices, wanted = question
    instance = build_instance(PlanRequest(devices, wanted, objective=Objective.MIN_PRICE))
    if instance.hopeless:
        return None, Status.INFEASIBLE
    every = list(range(len(devices)))
    found = solve_exact(instance, Goal.COST, every, None, deterministic_seconds=5)
    return found.packing, found.status


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_the_exact_model_keeps_every_rule_and_forbids_nothing_else(
    kind: str, data: st.DataObject
) -> None:
    question = data.draw(questions(kind, rated=False, limits=True, ruled=True))
    best = try_everything(*question, Objective.MIN_PRICE)
    packing, status = _exact(question)
    if best is None:
        assert status is Status.INFEASIBLE
    else:
        assert packing is not None
        assert packing.lacking() == []
        assert status is Status.OPTIMAL
        assert abs(packing.cost() - best) < 1e-3 * len(question[0])


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_models_placed_by_rules_keep_them_and_so_does_whatever_fits_beside_them(
    kind: str, data: st.DataObject
) -> None:
    devices, wanted = data.draw(questions(kind, rated=False, limits=True, ruled=True))
    instance = build_instance(PlanRequest(devices, wanted, objective=Objective.MIN_PRICE))
    packing = Packing(instance)
    ruled = [n for n in instance.needs if n.model in instance.ties.beyond_device]
    complete(Adding(packing, usual_prices(build_sites(instance))), ruled)
    _assert_hard_rules(packing)
    # Whatever fits may be added without breaking a rule.
    for index in range(len(devices)):
        for option, fit in enumerate(packing.group(index).fits):
            for item in fit:
                if packing.fits(index, item, option):
                    packing.add(index, item, option)
    _assert_hard_rules(packing)


def _assert_hard_rules(packing: Packing) -> None:
    items = packing.instance.items
    for index, load in enumerate(packing.loads):
        for item in load.items:
            assert not shunned(packing.instance, load, items[item].model)
            assert not lonely(packing, index, items[item].model)
