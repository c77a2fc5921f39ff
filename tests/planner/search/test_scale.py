"""The largest common factor is bounded and raised, and the remainder is given away."""

import dataclasses

import pytest

from bench.planner.shipped import request
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Objective, Status
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.portfolio import solve_portfolio
from partitiond.planner.search.scale import ASKS, FIRST_ASKS, Raising, factor_of, largest_factor
from partitiond.planner.stop import never
from tests.planner.build import FREE, gpus, point, want
from tests.planner.problems import optimum, question, request_of, seeds


def raising(instance: Instance, *, searches: bool = True) -> Raising:
    """Nobody watches."""
    return Raising(SolveMonitor(instance), searches)


@pytest.mark.parametrize("seed", seeds(80))
def test_no_plan_has_a_larger_factor(seed: int) -> None:
    asked = question(seed, Objective.MAX_MIN)
    instance = build_instance(request_of(asked))
    best = optimum(asked) or 0.0
    known = raising(instance)
    known.lower(known.alone(), "alone")
    assert known.bound < 0 or known.bound >= best * (1 - 1e-9)
    if known.bound <= 0:
        assert best == 0
        return
    known.prove()
    if known.bound < 0:  # least numbers cannot be met together
        assert best == 0
        return
    assert known.bound >= best * (1 - 1e-7)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("least", "most", "bound"),
    [(1, None, 0.25), (2, None, 0.2), (6, None, 0.0), (7, None, -1.0), (1, 2, 0.1), (1, 5, 0.25)],
)
def test_least_and_largest_numbers_of_replicas_bound_the_factor(
    least: int, most: int | None, bound: float, exact: bool
) -> None:
    """Six places: of 1 request/s a replica a asks for 20, and b holds so many replicas at least."""
    a = want("a", point("a", 1.0, 40, sm=50), rate=20.0)
    b = dataclasses.replace(want("b", point("b", 1.0, 40, sm=50)), min_replicas=least)
    models = dataclasses.replace(a, max_replicas=most), b
    asked = PlanRequest(gpus(3), models, objective=Objective.MAX_MIN, interference=FREE)
    instance = build_instance(asked)
    found = largest_factor(SolveMonitor(instance), searches=False, exact=exact)
    assert found.value == pytest.approx(max(0.0, bound), abs=1e-6)
    assert found.met() == (bound >= 0 if exact or bound <= 0 else found.met())
    # Without CP-SAT the last proof leaves a little.
    assert found.bound == pytest.approx(bound, rel=1e-6 if exact else 0.01, abs=1e-6)


def test_each_factor_is_raised_from_the_plan_before_it_and_what_is_left_is_given_away() -> None:
    asked = dataclasses.replace(
        request("over", 5, 4, 1, 1.0), objective=Objective.MAX_MIN, deterministic=True
    )
    known = raising(build_instance(asked))
    known.lower(known.alone(), "alone")
    known.prove()
    hopeless, known.hopeless = known.hopeless, lambda: True
    known.ask_for_more(2)
    assert not known.asked, "the fallback needs time, too"
    known.hopeless = hopeless
    values, plans = [0.0], []
    for _ in range(4):
        known.ask_for_more(1)
        values.append(known.value)
        plans.append(known.best)
    assert values == sorted(values)
    assert known.best is not None
    assert known.value == factor_of(known.best, known.target)
    first = next(plan for plan in plans if plan is not None)
    assert not known.keep(first, "one that is worse")
    assert known.value == values[-1] > factor_of(first, known.target)
    assert 0.5 * known.bound < known.value <= known.bound
    before, known.hopeless = known.asked, lambda: True
    known.ask_for_more(1)
    assert known.asked > before, "there is a plan"
    more = known.given_away(first, never)
    assert more.goodput() > first.goodput()
    assert factor_of(more, known.target) >= factor_of(first, known.target) * (1 - 1e-6)


def test_a_plan_is_found_before_the_linear_program_and_looked_for_again_with_its_prices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = dataclasses.replace(
        request("over", 5, 4, 1, 1.0), objective=Objective.MAX_MIN, deterministic=True
    )
    events = list[str]()

    def ask(_known: Raising, _factor: float) -> bool:
        events.append("ask")
        return False

    def prove(known: Raising) -> None:
        events.append("prove")
        known.hopeless = lambda: True

    monkeypatch.setattr(Raising, "_ask", ask)
    monkeypatch.setattr(Raising, "prove", prove)
    largest_factor(SolveMonitor(build_instance(asked)), searches=True, exact=False)
    assert events == ["ask"] * FIRST_ASKS + ["prove"] + ["ask"] * ASKS


def test_what_is_served_beyond_the_factor_is_not_taken_for_a_model_without_a_rate() -> None:
    """One gets half of its demand and the other all; another replica beside it would slow it."""
    levels = Interference((1.0, 1.5), (1.0, 1.5), 0.0, 0.0, 0.0)
    for half, rate, slowed in ((2.0, 1.0, False), (2.0, 0.25, True), (0.5, 0.5, True)):
        models = (
            want("half", point("half", 1.0, 80, sm=100), rate=half, max_replicas=1),
            want("full", point("full", 1.0, 40, sm=50, busy=1.0), rate=rate, max_replicas=1),
            want("free", point("free", 1.0, 40, sm=50, busy=0.5)),
        )
        asked = PlanRequest(gpus(3), models, objective=Objective.MAX_MIN, interference=levels)
        instance = build_instance(asked)
        option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode == "mps")
        packing = Packing(instance)
        for index in range(3):
            packing.add(index, index, option)
        more = raising(instance).given_away(packing, never)
        assert (more.rates[1] < packing.rates[1]) is slowed
        assert more.counts[2] == (3 if slowed else 2), "two of them fit beside each other"


def test_a_smallest_share_of_nothing_is_no_fallback_though_it_is_not_proven() -> None:
    """There is no time to prove that only one of the two fits."""
    models = tuple(want(name, point(name, 5, 60), rate=5) for name in "ab")
    asked = PlanRequest(gpus(1), models, objective=Objective.MAX_MIN)
    found = solve_portfolio(build_instance(asked), stop=lambda: True)
    assert (found.objective, found.value) == (Objective.MAX_MIN, 0.0)
    assert found.bound > 0
    assert found.status is Status.FEASIBLE
    assert sum(found.packing.counts.values()) == 1
