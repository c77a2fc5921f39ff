"""Plans from the column generation hold what they say and come near the bound."""

import time

import pytest

from bench.planner.instances import request
from partitiond.core.plan import Objective
from partitiond.planner.arrays import Problem, build_problem
from partitiond.planner.columns import Columns, generate
from partitiond.planner.columns_dive import dive
from partitiond.planner.instance import build_instance
from partitiond.planner.packing import Packing
from tests.planner.problems import least_cost, most_goodput, random_problem


def _dive(problem: Problem, kind: str) -> tuple[Columns, Packing | None]:
    columns = Columns(problem, kind)  # type: ignore[arg-type]
    columns.run(time.monotonic() + 60)
    return columns, dive(columns, time.monotonic() + 60)


def _replayed(packing: Packing) -> Packing:
    """The same, item by item; fails where one does not fit."""
    again = Packing(packing.instance)
    for index, load in enumerate(packing.loads):
        for item in load.items:
            assert load.option is not None
            assert again.fits(index, item, load.option)
            again.add(index, item, load.option)
    return again


@pytest.mark.parametrize("seed", range(60))
def test_what_a_dive_gives_for_a_cost_fits_and_is_not_below_the_best(seed: int) -> None:
    problem = random_problem(seed, Objective.MIN_PRICE)
    least = least_cost(problem)
    columns, packing = _dive(problem, "cost")
    if packing is None:
        assert columns.solution is None
        return
    again = _replayed(packing)
    if not again.lacking():
        assert least is not None
        assert again.cost() >= least - 1e-9


@pytest.mark.parametrize("seed", range(60))
def test_what_a_dive_gives_for_goodput_fits_and_is_not_above_the_best(seed: int) -> None:
    problem = random_problem(seed, Objective.MAX_GOODPUT)
    _, packing = _dive(problem, "goodput")
    if packing is not None:
        assert _replayed(packing).goodput() <= most_goodput(problem) + 1e-6


def test_a_dive_serves_everything_with_few_devices() -> None:
    problem = build_problem(build_instance(request("slack", 40, 24, 5, 10.0)))
    columns, packing = _dive(problem, "cost")
    assert packing is not None
    assert not _replayed(packing).lacking()
    assert packing.cost() <= columns.bound() + 2.0


def test_a_dive_gives_the_same_on_every_run_and_leaves_the_columns_as_they_were() -> None:
    problem = build_problem(build_instance(request("over", 30, 12, 5, 10.0)))
    columns, first = _dive(problem, "goodput")
    before = columns.bound()
    again = dive(columns, time.monotonic() + 60)
    other, same = _dive(problem, "goodput")
    assert first is not None
    assert again is not None
    assert same is not None
    assert columns.bound() == before == other.bound()
    assert [load.items for load in first.loads] == [load.items for load in same.loads]
    assert again.goodput() >= 0.9 * before


def test_a_dive_out_of_time_leaves_something_that_fits() -> None:
    problem = build_problem(build_instance(request("slack", 40, 24, 5, 10.0)))
    columns = Columns(problem, "cost")
    columns.run(time.monotonic() + 60)
    packing = dive(columns, time.monotonic() - 1)
    if packing is not None:
        _replayed(packing)


def test_dives_again_and_again_get_better_and_stay_below_the_bound() -> None:
    problem = build_problem(build_instance(request("over", 30, 12, 5, 10.0)))
    plans: list[Packing] = []
    found = generate(
        problem,
        kind="goodput",
        deadline=time.monotonic() + 120,
        on_plan=plans.append,
        dives=12,
    )
    values = [_replayed(plan).goodput() for plan in plans]
    assert 0.95 * found.bound <= max(values) <= found.bound
