"""The bound on the largest common factor holds for any prices, and is that of the relaxation."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest

from partitiond.core.interference import Interference
from partitiond.core.plan import ModelDemand, Objective
from partitiond.planner.arrays import Problem, build_problem
from partitiond.planner.bound import bound_cost
from partitiond.planner.instance import Instance, PlanRequest, build_instance
from partitiond.planner.scale import targets_of
from partitiond.planner.scale_bound import Prices, factor_at, relaxed_factor
from partitiond.planner.weighted import shares
from tests.oracle.questions import question_of
from tests.oracle.truth import Question, all_loads, best
from tests.planner.build import gpu, point, want

FREE = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)
SCALED = {Objective.MAX_MIN, Objective.MAX_HEADROOM}


def _asked(question: Question) -> Instance:
    return build_instance(
        PlanRequest(
            question.devices,
            question.models,
            objective=question.objective,
            host_memory_bytes=question.host_memory_bytes,
            interference=question.interference,
        )
    )


def _some_prices(rng: random.Random, problem: Problem) -> Prices:
    """Of each resource of each way to run a device, and of replicas; many are 0."""

    def some(sign: float = 1.0) -> float:
        return rng.choice((0.0, rng.random(), rng.expovariate(1), sign * rng.random()))

    share = shares(problem)
    price = np.array(
        [[some() for _ in row] for row in np.zeros((len(problem.place_group), share.shape[1]))]
    )
    entry = (share * price[problem.entry_place]).sum(axis=1)
    number = np.array([some(-1.0) for _ in problem.instance.needs])
    return Prices(entry, price.sum(axis=1), number)


@pytest.mark.parametrize("part", range(4))
def test_no_prices_give_a_bound_below_the_best(part: int) -> None:
    rng, tried = random.Random(part), 0
    for seed in itertools.count(70_000 + 1_000 * part):
        question = question_of(seed)
        instance = _asked(question)
        loads = all_loads(question)
        if question.objective not in SCALED or not instance.needs or loads is None:
            continue
        value = best(question, loads)
        problem, target = build_problem(instance), targets_of(instance)
        for prices in [_some_prices(rng, problem) for _ in range(30)]:
            bound = factor_at(problem, target, prices)
            assert value is None or bound >= value[0] * (1 - 1e-12), seed
        assert value is None or relaxed_factor(instance, target) >= value[0] * (1 - 1e-12), seed
        tried += 1
        if tried == 25:
            break


def _headroom(devices: int, *models: ModelDemand) -> Instance:
    request = PlanRequest(
        tuple(gpu(f"g{n}") for n in range(devices)),
        models,
        objective=Objective.MAX_HEADROOM,
        interference=FREE,
    )
    return build_instance(request)


@pytest.mark.parametrize(
    ("least", "most", "bound"),
    [(1, None, 2.5), (2, None, 2.0), (6, None, 0.0), (7, None, -1.0), (1, 2, 1.0), (1, 5, 2.5)],
)
def test_the_bound_is_that_of_the_relaxation(least: int, most: int | None, bound: float) -> None:
    """Six places: of a request/s a replica a asks for 2, and b holds so many replicas at least."""
    a = want("a", point("a", 1.0, 40, sm=50), rate=2.0)
    b = dataclasses.replace(want("b", point("b", 1.0, 40, sm=50)), min_replicas=least)
    instance = _headroom(3, dataclasses.replace(a, max_replicas=most), b)
    assert relaxed_factor(instance, targets_of(instance)) == pytest.approx(bound, rel=1e-6)


def test_no_status_is_a_proof_that_something_is_impossible() -> None:
    """Prices of nothing say nothing; a largest number that nothing contradicts is no proof."""
    instance = _headroom(2, want("a", point("a", 1.0, 40, sm=50), rate=2.0))
    problem, target = build_problem(instance), targets_of(instance)
    nothing = Prices(
        np.zeros(len(problem.entry_item)), np.zeros(len(problem.place_group)), np.zeros(1)
    )
    assert math.isinf(factor_at(problem, target, nothing))


@pytest.mark.parametrize(
    ("wanted", "served"), [(4.0, True), (4.0 * (1 + 1e-6), False), (4.1, False)]
)
def test_that_not_all_can_be_served_is_proven_by_prices(wanted: float, served: bool) -> None:
    """Of whole replicas, which four are the most of."""
    model = want("a", point("a", 1.0, 40, sm=50), rate=wanted)
    instance = build_instance(PlanRequest((gpu("g0"), gpu("g1")), (model,), interference=FREE))
    value = bound_cost(instance).value
    assert (value is not None) == served
