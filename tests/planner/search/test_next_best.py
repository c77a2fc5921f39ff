"""The next best plan on other kinds of device is found, with the price at which it would win."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.kinds import OnKinds
from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.search.next_best import is_asked, next_best_told, on_other_kinds, without
from partitiond.planner.search.portfolio import solve_portfolio
from tests.planner.build import gpu, point, want


def priced(name: str, hardware: str, price: float) -> Device:
    """A GPU of a kind at a price per hour."""
    return gpu(name, hardware=hardware, price_per_hour=price)


def request(large: float, objective: Objective = Objective.MIN_PRICE) -> PlanRequest:
    """A model that one large GPU serves, or two small ones of 1 per hour each."""
    devices = (priced("l", "large", large), priced("s0", "small", 1), priced("s1", "small", 1))
    sizes = (
        point("a", 10, 60, hardware="large"),
        dataclasses.replace(point("a", 5, 60, hardware="small"), profile_id="small"),
    )
    return PlanRequest(devices, (want("a", *sizes, rate=10),), objective=objective)


def lines(asked: PlanRequest) -> tuple[str, ...]:
    """What the plan says."""
    plan = solve(asked)
    assert isinstance(plan, Plan)
    return plan.explanation


def told(asked: PlanRequest) -> list[str]:
    """What it says of the next best one."""
    return [line for line in lines(asked) if line.startswith("Next best")]


PRICE, FEWEST = Objective.MIN_PRICE, Objective.MIN_DEVICES


@pytest.mark.parametrize(
    ("large", "objective", "says"),
    [
        (1.5, PRICE, "2x small for 2 per hour instead of 1x large for 1.5; it wins where one small "
                     "costs below 0.75 per hour (now 1)."),
        (3.0, PRICE, "1x large for 3 per hour instead of 2x small for 2; it wins where one large "
                     "costs below 2 per hour (now 3)."),
        (3.0, FEWEST, "2x small for 2 per hour instead of 1x large for 3; it wins under "
                      "--objective min-price."),
        (1.5, FEWEST, None),
        (1.0, PRICE, None),
        (1.0, FEWEST, None),
    ],
)  # fmt: skip
def test_the_next_best_names_the_price_at_which_it_wins(
    large: float, objective: Objective, says: str | None
) -> None:
    """None is told where no plan is cheaper, or all devices have one price."""
    expected = [] if says is None else [f"Next best of the plans found: {says}"]
    assert told(request(large, objective)) == expected
    unproven = [line for line in lines(request(large, objective)) if line.startswith("Only the nu")]
    assert len(unproven) == (large > 1 and objective is FEWEST), "that it is cheap is not proven"


def test_without_a_choice_or_a_price_there_is_no_next_best() -> None:
    asked = request(1.5)
    assert told(dataclasses.replace(asked, devices=asked.devices[:1])) == []
    assert told(PlanRequest(asked.devices, (), objective=PRICE)) == []
    summary, why, *_ = lines(request(1.0))
    assert "no plan needs fewer than 1 (proven optimal)" in summary
    assert why.startswith("No device has a price, so that each counts as 1 per hour")


@pytest.mark.parametrize(("large", "wins"), [(1.99, "large"), (2.01, "small")])
def test_at_that_price_it_is_the_plan(large: float, wins: str) -> None:
    plan = solve(request(large))
    assert isinstance(plan, Plan)
    assert {p.candidate.hardware for p in plan.placements} == {wins}


def test_a_plan_that_was_found_too_late_is_told_as_such() -> None:
    instance = build_instance(request(3.0))
    packing = solve_portfolio(instance).packing
    late = OnKinds({"large": 1}, 1.5)
    other = on_other_kinds([late, OnKinds({"large": 2}, 6.0)], packing)
    assert other == late
    assert next_best_told(packing, other) == (
        "Next best of the plans found: 1x large for 1.5 per hour instead of 2x small for 2; it "
        "wins with a longer --time-limit, as it was found last."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"objective": Objective.MIN_POWER},
        {"objective": Objective.MIN_ENERGY},
        {"devices": request(1.0).devices},
        {"devices": request(1.0).devices[1:]},
    ],
)
def test_where_prices_decide_nothing_no_plan_is_made_for_a_next_best(
    change: dict[str, object],
) -> None:
    assert is_asked(request(1.5))
    assert not is_asked(dataclasses.replace(request(1.5), **change))  # type: ignore[arg-type]


def test_without_a_kind_that_a_model_needs_there_is_no_question() -> None:
    asked = request(1.5)
    only = want("b", point("b", 10, 20, hardware="large"), rate=1)
    both = build_instance(dataclasses.replace(asked, models=(*asked.models, only)))
    assert without(both, "large", 1.0) is None
    left = without(both, "small", 1.0)
    assert left is not None
    assert {d.hardware for d in left.request.devices} == {"large"}
