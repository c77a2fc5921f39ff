"""Priorities are lexicographic, and the proof holds for each priority."""

import dataclasses
import itertools
import math

import pytest

from partitiond.core.model.spec import PlacementRules
from partitiond.core.plan.answers import alternative
from partitiond.core.plan.record import ModelDemand, Objective, Plan, Status
from partitiond.planner.answers.certify import certify
from partitiond.planner.exact import Exact
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.members import Member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.portfolio import solve_portfolio
from partitiond.planner.search.priorities import (
    class_by_class,
    classes_of,
    exact_classes,
    goodput_key,
    order,
)
from tests.planner.build import FREE, gpus, point, want
from tests.planner.problems import plan_for


def ranked(
    name: str, priority: int, rate: float, gib: float = 40, wanted: float = 0
) -> ModelDemand:
    """A model of one size; it wants one replica unless told."""
    rules = PlacementRules(priority=priority)
    return want(name, point(name, rate, gib, sm=50), rate=wanted or rate, rules=rules)


def asked(devices: int, *models: ModelDemand) -> PlanRequest:
    """For the most goodput."""
    return PlanRequest(
        gpus(devices),
        models,
        objective=Objective.MAX_GOODPUT,
        interference=FREE,
    )


def planned(devices: int, *models: ModelDemand) -> Plan:
    """The answer, which is a plan."""
    return plan_for(asked(devices, *models))


@pytest.mark.parametrize("order_of", [*itertools.permutations((0, -1, -2))][::2])
def test_the_lowest_is_served_as_well_as_it_can_be_beside_a_far_higher_one(
    order_of: tuple[int, ...],
) -> None:
    low = [ranked(f"m{p}", p, 3.0 + p) for p in order_of]
    plan = planned(2, ranked("top", 2, 1000.0, wanted=2000.0), *low)
    assert sorted(p.model for p in plan.placements) == ["m-1", "m0", "top", "top"]
    proof = plan.certificate
    assert proof.status is Status.OPTIMAL
    assert [p.value for p in proof.by_priority] == [2000.0, 3.0, 2.0, 0.0]
    assert [p.bound for p in proof.by_priority] == pytest.approx([2000.0, 3.0, 2.0, 0.0])


def _two() -> Plan:
    return planned(2, ranked("high", 1, 2.0, wanted=4.0), ranked("low", 0, 3.0, wanted=9.0))


def test_a_part_of_a_replica_of_a_higher_priority_counts_before_a_lower_one() -> None:
    more, both = _more_of_the_higher_or_both()
    assert both.goodput() > more.goodput()
    assert goodput_key(Member("", more)) > goodput_key(Member("", both))


def _more_of_the_higher_or_both() -> tuple[Packing, Packing]:
    """Two plans for a device: a large replica of the higher priority, or a small one beside 5
    requests/s of the lower."""
    sizes = point("high", 1.0, 40, sm=50), point("high", 1.0001, 80, sm=100)
    high = want("high", *sizes, rate=1.0001, rules=PlacementRules(priority=1))
    instance = build_instance(asked(1, high, ranked("low", 0, 5.0)))
    items = {it.candidate.capacity_req_per_s: it.index for it in instance.items}
    option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode is not None)
    more, both = Packing(instance), Packing(instance)
    more.add(0, items[1.0001], option)
    both.add(0, items[1.0], option)
    both.add(0, items[5.0], option)
    return more, both


def test_what_is_proven_beside_more_of_a_higher_priority_bounds_no_plan_with_less_of_it() -> None:
    """A plan that moves less may give the higher one less, and the lower one more."""
    more, both = _more_of_the_higher_or_both()
    classes, exact = classes_of(more.instance), {0: 1.0001, 1: 0.0}
    members = [Member("", more), Member("", both)]
    for own, bounds in ((more, (1.0001, 0.0)), (both, (1.0001, 5.0))):
        answer = SolveAnswer(own, Objective.MAX_GOODPUT, 0.0, math.inf, Status.FEASIBLE, "")
        found = class_by_class(SolveMonitor(own.instance), classes, members, answer, exact)
        assert [b for _, b in found.class_bounds] == pytest.approx(bounds)
        assert (found.status is Status.OPTIMAL) == (own is more)


def test_optimal_is_no_sum_in_which_a_lower_priority_is_lost() -> None:
    request = asked(1, ranked("top", 2, 1000.0), ranked("low", -2, 1.0))
    instance = build_instance(request)
    found = solve_portfolio(instance)
    plan = planned(1, *request.models)
    assert plan.certificate.status is Status.OPTIMAL
    (top, most), (low, had) = found.class_bounds
    open_ = dataclasses.replace(found, class_bounds=((top, most), (low, had + 3.0)))
    proof = certify(instance, open_, plan.placements, {"g0": 1.0}, 1.0)
    assert proof.gap < 1e-6
    assert proof.status is Status.FEASIBLE


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((1.0, 0.0), (0.9, 9.0), 1),
        ((1.0, 0.0), (1.0, 1.0), -1),
        ((1.0, 1.0), (1.0 + 1e-8, 0.9), 1),
        ((0.0, 1.0), (1e-12, 0.0), -1),
        ((1.0, 1.0), (1.0, 1.0), 0),
    ],
)
def test_the_first_difference_decides(
    one: tuple[float, ...], other: tuple[float, ...], better: int
) -> None:
    assert order(one, other) == better
    assert order(other, one) == -better


def test_no_sentence_counts_requests_by_their_priority() -> None:
    both = _two()
    assert (
        "priority 1 gets 4 weighted requests/s of at most 4, then priority 0 gets 6 weighted "
        in (both.explanation[0])
    )
    single = planned(1, ranked("high", 1, 2.0, wanted=9.0))
    assert single.certificate.value == 400.0, "in step with plans of several priorities"
    assert [(p.priority, p.value) for p in single.certificate.by_priority] == [(1, 4.0)]
    assert "priority 1 gets 4 weighted requests/s of at most 4 (proven" in single.explanation[0]


@pytest.mark.parametrize(
    ("low_value", "low_bound", "says"),
    [(2.0, 9.0, (-4.0, 3.0, 0)), (None, None, (0.0, 1.0, 1))],
)
def test_what_a_proof_leaves_open_is_of_the_same_priority(
    low_value: float | None, low_bound: float | None, says: tuple[float, float, int]
) -> None:
    """The higher one's bound is above its value; the lower one has less, or as much."""
    both = _two()
    top, low = both.certificate.by_priority
    if low_value is not None and low_bound is not None:
        low = dataclasses.replace(low, value=low_value, bound=low_bound)
    open_ = (dataclasses.replace(top, bound=5.0), low)
    proof = dataclasses.replace(both.certificate, by_priority=open_)
    other = dataclasses.replace(both, certificate=proof)
    one = alternative("", both, other, (), with_plan=False)
    assert (one.gain, one.gain_at_most, one.priority) == says


def test_the_worst_served_is_told_by_its_share_and_not_by_its_weight() -> None:
    """The high one's share counts a hundredth; the low one's half is the smaller share."""
    request = asked(1, ranked("high", 1, 4.0), ranked("low", 0, 3.0, wanted=6.0))
    plan = plan_for(dataclasses.replace(request, objective=Objective.MAX_MIN))
    assert "the smallest share of a demand, over its weight, is 0.01, no" in plan.explanation[0]
    assert plan.explanation[1] == (
        "The worst served model is low, with 3 requests/s for 6 wanted (50% short)."
    )
    free = want("free", point("free", 4.0, 40, sm=50))
    alone = dataclasses.replace(request, models=(free,), objective=Objective.MAX_MIN)
    unrated = plan_for(alone)
    assert "is 8 requests/s, no plan's is more than 8 (" in unrated.explanation[0]


def test_a_plan_with_its_least_numbers_is_better_than_one_that_serves_more() -> None:
    """The next priority is asked beside it."""
    low = dataclasses.replace(ranked("b", 0, 1.0), min_replicas=1)
    instance = build_instance(asked(1, ranked("a", 1, 50.0, wanted=100.0), low))
    item = {it.candidate.model: it.index for it in instance.items}
    option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode is not None)
    full, good = Packing(instance), Packing(instance)
    for packing, names in ((full, "aa"), (good, "ab")):
        for name in names:
            packing.add(0, item[name], option)
    beside = list[Packing]()

    def ask(best: Packing, *_: object) -> Exact:
        beside.append(best)
        return Exact(Status.OPTIMAL, good, None)

    assert exact_classes(classes_of(instance), [Member("", full)], {}, ask).packing is good
    assert beside == [full, good]
