"""What is chosen of all contents of devices is the best plan there is."""

import dataclasses
from fractions import Fraction
from typing import Final

import numpy as np
import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.columns.best_choice import BestChoice
from partitiond.planner.columns.fleet import ColumnProblem
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.columns.search import packed
from partitiond.planner.model.sites import Sites
from tests.planner.problems import optimum, question, seeds, sites_of

SLACK: Final = Fraction(1, 1_000_000)


def _simple(sites: Sites) -> bool:
    """Whether contents of devices are all that a plan is bound by."""
    instance = sites.instance
    most = min(need.max_replicas for need in instance.needs)
    return not (instance.pools or instance.ties.near or most < 100)


@pytest.mark.parametrize("seed", seeds(150, 20))
def test_the_best_choice_is_the_best_plan_at_any_prices(seed: int) -> None:
    asked, rng = question(seed, Objective.MAX_GOODPUT), np.random.default_rng(seed)
    fleet = ColumnProblem(sites_of(asked))
    if not fleet.worth.any():
        return
    none = np.zeros(len(fleet.worth))
    served = fleet.worth * rng.uniform(0, 1.5, len(none))
    least = np.where(fleet.least > 0, rng.choice([0.0, 0.1 * float(fleet.worth.max())]), 0.0)
    prices = RowPrices(
        served, least, none, np.zeros(len(fleet.classes.count)), np.zeros(fleet.classes.pools)
    )
    choice, most = BestChoice(fleet, prices), optimum(asked, full=True)
    found = choice.within(choice.bound + 1.0, lambda: False)
    assert found is not None
    lost, plan = found
    if most is None:
        assert not (plan and _simple(fleet.sites))
        return
    assert choice.bound - lost >= most * (1 - 1e-9) - 1e-9
    if _simple(fleet.sites):
        loose = optimum(dataclasses.replace(asked, slack=SLACK), full=True)
        assert loose is not None
        assert choice.bound - lost <= loose * (1 + 1e-9) + 1e-9
        assert packed(fleet, plan).goodput() == pytest.approx(choice.bound - lost)
    # Less than what is lost is nothing's margin.
    assert choice.within(lost, lambda: False) == (lost, [])
