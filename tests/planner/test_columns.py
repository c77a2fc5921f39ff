"""No plan beats the bound, whatever the problem; and prices and sets make sense."""

import math
import time

import numpy as np
import pytest

from bench.planner.instances import NO_INTERFERENCE, request
from partitiond.core.plan import Objective
from partitiond.planner.arrays import Problem, build_problem
from partitiond.planner.bound import bound_cost, bound_goodput
from partitiond.planner.columns import Columns, ColumnsResult, generate
from partitiond.planner.instance import PlanRequest, build_instance
from tests.planner.build import gpu, point, want
from tests.planner.problems import holds, least_cost, most_goodput, random_problem

COSTS = (Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MIN_ENERGY)


def _run(problem: Problem, kind: str) -> ColumnsResult:
    return generate(problem, kind=kind, deadline=time.monotonic() + 60)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", COSTS)
@pytest.mark.parametrize("seed", range(80))
def test_no_plan_costs_less(seed: int, objective: Objective) -> None:
    problem = random_problem(seed, objective)
    least = least_cost(problem)
    found, quick = _run(problem, "cost"), bound_cost(problem.instance)
    if least is None:
        # Whole devices may make it impossible where shares of them would not.
        return
    assert found.bound <= least + 1e-6
    assert quick.value is not None
    assert quick.value <= least + 1e-6
    assert found.bound >= quick.value - 1e-6


@pytest.mark.parametrize("seed", range(80))
def test_no_plan_serves_more(seed: int) -> None:
    problem = random_problem(seed, Objective.MAX_GOODPUT)
    most = most_goodput(problem)
    found, quick = _run(problem, "goodput"), bound_goodput(problem.instance)
    assert found.bound >= most - 1e-6
    assert quick.value is not None
    assert quick.value >= most - 1e-6
    assert found.bound <= quick.value + 1e-6


@pytest.mark.parametrize("seed", range(40))
def test_bounds_are_close_on_small_problems(seed: int) -> None:
    """Not a proof of anything but that the bound is no triviality."""
    problem = random_problem(seed, Objective.MAX_GOODPUT)
    most = most_goodput(problem)
    assert _run(problem, "goodput").bound <= 1.5 * most + 1e-6


def test_every_bound_on_the_way_is_told_and_they_get_better() -> None:
    instance = build_instance(request("slack", 30, 16, 3, 10.0))
    told: list[float] = []
    columns = Columns(build_problem(instance), "cost", lambda bound, _: told.append(bound))
    columns.run(time.monotonic() + 60)
    assert columns.converged
    assert told == sorted(told)
    assert columns.result().bound == told[-1]


def test_a_passed_deadline_still_gives_a_bound() -> None:
    problem = build_problem(build_instance(request("over", 30, 16, 3, 10.0)))
    hasty = generate(problem, kind="goodput", deadline=time.monotonic())
    thorough = _run(problem, "goodput")
    assert hasty.rounds == 0
    assert thorough.bound <= hasty.bound < math.inf


def test_work_limits_give_the_same_on_every_run() -> None:
    problem = build_problem(build_instance(request("over", 30, 16, 3, 10.0)))
    once, again = (generate(problem, kind="goodput", deadline=math.inf, rounds=5) for _ in range(2))
    assert once.bound == again.bound
    assert (once.entry_price == again.entry_price).all()


def test_patterns_are_sets_that_devices_hold_and_serve_what_is_needed() -> None:
    problem = build_problem(build_instance(request("slack", 30, 16, 3, 10.0)))
    found = _run(problem, "cost")
    assert found.lp_weights.sum() == pytest.approx(found.bound, abs=1.0)
    for place, entries, counts in found.patterns:
        assert (problem.entry_place[entries] == place).all()
        assert holds(problem, place, tuple(np.repeat(entries, counts).tolist()))


def test_alike_hosts_are_one_class() -> None:
    """Groups of every host apart, but as few rows as for one host, and the bound of all."""
    devices = tuple(
        gpu(f"g{h}-{i}", host=f"h{h}", price_per_hour=1.0) for h in range(6) for i in range(2)
    )
    models = tuple(
        want(f"m{i}", point(f"m{i}", 5, 30, sm=10, host_gib=10), rate=5) for i in range(9)
    )
    memory = tuple((f"h{h}", 35 << 30) for h in range(6))
    instance = build_instance(
        PlanRequest(
            devices,
            models,
            objective=Objective.MIN_PRICE,
            host_memory_bytes=memory,
            interference=NO_INTERFERENCE,
        )
    )
    problem = build_problem(instance)
    columns = Columns(problem, "cost")
    columns.run(time.monotonic() + 60)
    assert len(instance.groups) == 6
    assert len(columns.rows.cost) == 1
    assert len(columns.rows.slots.pool_capacity) == 1
    # Two replicas fit a device.
    assert columns.bound() == pytest.approx(5.0)


def test_more_than_the_devices_hold_is_proven_impossible() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 41, sm=10), rate=5) for i in range(3))
    devices = (gpu("a", price_per_hour=1.0), gpu("b", price_per_hour=1.0))
    problem = build_problem(build_instance(PlanRequest(devices, models)))
    assert bound_cost(problem.instance).value is not None
    assert math.isinf(_run(problem, "cost").bound)


def test_without_models_or_devices_there_is_nothing_to_pay() -> None:
    problem = build_problem(build_instance(PlanRequest((gpu(),), ())))
    assert _run(problem, "cost").bound == 0.0
    assert _run(problem, "goodput").bound == 0.0
