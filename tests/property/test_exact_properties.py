"""The exact model agrees with trying everything."""

import dataclasses

import pytest

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete
from partitiond.planner.pack.packing import Packing, is_avoided, lacks_near
from tests.oracle.judge import SLACK
from tests.oracle.questions import question_of
from tests.planner.problems import optimum, question, request_of, seeds


@pytest.mark.parametrize("objective", [Objective.MIN_PRICE, Objective.MIN_ENERGY])
@pytest.mark.parametrize("seed", seeds(200, 16))
def test_the_exact_model_keeps_every_rule_and_forbids_nothing_else(
    seed: int, objective: Objective
) -> None:
    """Sizes that others beat are left out, and are not missed."""
    asked = question(seed, objective, limited=seed % 2 == 0)
    instance, best = build_instance(request_of(asked)), optimum(asked)
    assert best is not None
    every = list(range(len(asked.devices)))
    found = solve_exact(instance, Goal.COST, every, None, deterministic_seconds=5)
    assert found.status is Status.OPTIMAL
    assert found.packing is not None
    assert found.packing.lacking() == []
    # A plan may use the slack of sums of floats (docs/planning.md), which a bound may not.
    least = optimum(dataclasses.replace(asked, slack=SLACK))
    assert least is not None
    assert least * (1 - 1e-6) - 1e-6 <= found.packing.cost() <= best * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("seed", seeds(400, 16))
def test_what_trying_everything_does_not_serve_the_exact_model_does_not_either(seed: int) -> None:
    asked = question_of(seed, limited=True)
    instance, loose = build_instance(request_of(asked)), dataclasses.replace(asked, slack=SLACK)
    if instance.hopeless or not asked.objective.is_cost or optimum(loose) is not None:
        return
    every = list(range(len(asked.devices)))
    found = solve_exact(instance, Goal.COST, every, None, deterministic_seconds=5)
    assert found.status is Status.INFEASIBLE


@pytest.mark.parametrize("seed", seeds(200, 16))
def test_models_placed_by_rules_keep_them_and_so_does_whatever_fits_beside_them(seed: int) -> None:
    asked = question_of(2 * seed + 1, limited=seed % 2 == 0)
    instance = build_instance(request_of(asked))
    packing = Packing(instance)
    ruled = [n for n in instance.needs if n.model in instance.ties.beyond_device]
    complete(Adding(packing, usual_prices(build_sites(instance))), ruled)
    _assert_hard_rules(packing)
    # Whatever fits may be added without breaking a rule.
    for index in range(len(asked.devices)):
        for option, fit in enumerate(packing.group(index).fits):
            for item in fit:
                if packing.fits(index, item, option):
                    packing.add(index, item, option)
    _assert_hard_rules(packing)


def _assert_hard_rules(packing: Packing) -> None:
    items = packing.instance.items
    for index, load in enumerate(packing.loads):
        for item in load.items:
            assert not is_avoided(packing.instance, load, items[item].model)
            assert not lacks_near(packing, index, items[item].model)
