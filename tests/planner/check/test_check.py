"""Names, numbers, rates and latencies of a plan are what was asked for."""

import dataclasses

from partitiond.core.model.spec import Slo
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import ModelForecast, Objective, Plan, Unplaced
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import FREE, gpu, point, want
from tests.planner.check.make import lines, placed, plan_of, said
from tests.planner.problems import plan_for

ONE, TWO = point("a", 5, 10), point("b", 3, 10)
A, B = want("a", ONE, rate=5), want("b", TWO, rate=3)
GPU = gpu()
SLOWER = Interference((1.0, 1.5), (1.0, 1.5), 0.5, 0.5, 0.0)
"""Two replicas on a device slow each other to the level 1.5."""


def good(**changes: object) -> Plan:
    """A replica of each of two models, beside each other."""
    plan = plan_of((GPU,), (placed(ONE), placed(TWO)), (A, B))
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def with_second(**changes: object) -> Plan:
    """The same plan, with the second placement changed."""
    first, second = good().placements
    return good(placements=(first, dataclasses.replace(second, **changes)))  # type: ignore[arg-type]


ON_X, NINE = placed(TWO, on="x").partition, dataclasses.replace(TWO, batch=9)
BOTH = with_second(replica_id="a-1", model="c")


def test_names_are_those_of_the_question_or_nothing_else_is_said() -> None:
    for plan, says in (
        (with_second(replica_id="a-1"), "replica id a-1 is used 2 times"),
        (good(devices=(GPU, GPU)), "device id gpu-0 is listed 2 times"),
        (with_second(device_id="x", partition=ON_X), "b-1 is on device x, which does not exist"),
        (with_second(partition=ON_X), "b-1 is on gpu-0 but its partition on x"),
        (with_second(model="c"), "b-1 serves c, which was not asked for"),
        (with_second(candidate=NINE), "b-1 runs at a point that is no candidate of b"),
        (good(unplaced=(Unplaced("c", "no"),)), "c is unplaced but was not asked for"),
        (BOTH, "replica id a-1 is used 2 times | a-1 serves c, which was not asked for"),
    ):
        # Every plan breaks another rule, too: its forecasts are missing.
        assert check_plan(dataclasses.replace(plan, forecasts=()), (A, B), FREE) == lines(says)
        assert check_plan(good(), (A, B), FREE) == ()


def copies(number: int, **asked: object) -> tuple[str, ...]:
    """What is said of so many replicas of a model."""
    demand = want("a", ONE, **asked)  # type: ignore[arg-type]
    return said((GPU,), [placed(ONE, n) for n in range(1, number + 1)], (demand,))


def test_replicas_are_as_many_as_wanted_and_serve_the_demand() -> None:
    for number, asked, says in (
        (2, {"max_replicas": 2}, ""),
        (3, {"max_replicas": 2}, "a has 3 replicas, at most 2 are wanted"),
        (2, {"min_replicas": 2}, ""),
        (1, {"min_replicas": 2}, "a has 1 replicas and is not listed as unplaced"),
        (1, {}, ""),
        (2, {"rate": 10.0 * (1 + 0.9e-6)}, ""),
        (2, {"rate": 10.0 * (1 + 1.2e-6)}, "a gets 10 of 10 requests/s and is not unplaced"),
        (2, {"rate": 12.0}, "a gets 10 of 12 requests/s and is not unplaced"),
    ):
        assert copies(number, **asked) == lines(says)


def test_what_is_missing_is_what_the_plan_says() -> None:
    for rate, claim, wrong in (
        (8.0, 3.0, False),
        (8.0, 3.0 + 7e-6, False),
        (8.0, 3.0 + 9e-6, True),
        (8.0, 3.0 - 9e-6, True),
        (8.0, None, False),
        (8.0, 0.0, True),
        (4.0, 0.0, False),
        (4.0, -1.0, True),
        (None, 0.0, False),
        (None, 1.0, True),
    ):
        demand = want("a", ONE, rate=rate)
        found = said(
            (GPU,),
            (placed(ONE),),
            (demand,),
            unplaced=(Unplaced("a", "no room", claim), Unplaced("a", "second", 99.0)),
            objective=Objective.MAX_GOODPUT,
            value=min(5.0, rate or 5.0),
        )
        missing = 0.0 if rate is None else rate - 5.0
        assert found == ((f"a lacks {missing:.4g} requests/s, the plan says otherwise",) * wrong)


FIRST, SECOND = good().forecasts
TWO_REPLICAS = dataclasses.replace(SECOND, replicas=2)
NUMBER = "b has 1 replicas, its forecast says otherwise"
RATE = "b gets 3 requests/s, its forecast says otherwise"


def gets(rate: float) -> ModelForecast:
    """The second forecast, of another rate."""
    return dataclasses.replace(SECOND, capacity_req_per_s=rate)


def test_forecasts_say_what_models_get() -> None:
    for told, says in (
        ((), NUMBER),
        ((TWO_REPLICAS,), NUMBER),
        ((gets(3.000002),), ""),
        ((gets(3.000004),), RATE),
        ((gets(2.999996),), RATE),
        ((SECOND, TWO_REPLICAS), ""),  # the first one counts
    ):
        assert check_plan(good(forecasts=(FIRST, *told)), (A, B), FREE) == lines(says)


def test_what_no_level_covers_serves_nothing_and_keeps_no_slo() -> None:
    demands = want("a", ONE, slo=Slo(99.0, 99.0)), want("b", TWO)
    three = placed(ONE), placed(ONE, 2), placed(TWO)
    plan = plan_of((GPU,), three, demands, slowed=float("inf"))
    bounds = [(n, bound) for n in (1, 2) for bound in ("TTFT", "TPOT")]
    assert check_plan(plan, demands, SLOWER) == (
        "gpu-0 is shared by so many that no level of interference covers it",
        *(f"a-{n} would miss the {bound} bound of a on gpu-0" for n, bound in bounds),
    )


def test_what_the_planner_answers_is_accepted() -> None:
    plan = plan_for(PlanRequest((GPU, gpu("gpu-1")), (A, B)))
    assert check_plan(plan, (A, B)) == ()
