"""Placement rules decide where models may be, and failures name what is missing."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.diff import StepKind, diff_cost
from partitiond.core.plan.record import Infeasible, ModelDemand, Plan, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.check import check_plan
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.ties import twins
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete
from partitiond.planner.pack.packing import Packing, may_leave, missing
from tests.planner.build import gpu, point, want
from tests.planner.problems import plan_for

HOSTS = tuple(gpu(f"gpu-{i}", host=f"node-{i // 2}", rack=f"rack-{i // 4}") for i in range(8))


def _rules(**given: object) -> PlacementRules:
    return PlacementRules(**given)  # type: ignore[arg-type]


def _plan(devices: tuple[Device, ...], *wanted: object, **more: object) -> Plan:
    request = PlanRequest(devices, wanted, time_limit_seconds=2, **more)  # type: ignore[arg-type]
    plan = plan_for(request)
    assert check_plan(plan, request.models) == ()
    return plan


def _of_groups(*groups: str, sm: int = 20) -> list[ModelDemand]:
    """One model of each group, all of which fit one GPU together."""
    return [
        want(f"m{n}", point(f"m{n}", 5, 20, sm=sm), rate=4, isolation_group=group)
        for n, group in enumerate(groups)
    ]


def test_of_two_groups_with_one_gpu_one_is_left_out_and_both_ways_out_are_told() -> None:
    plan = _plan(HOSTS[:1], *_of_groups("a", "b"))
    (left,) = plan.unplaced
    said = "an MPS daemon serves one isolation group (try another mode, or one group)"
    assert said in left.reason
    alike = _plan(HOSTS[:1], want("m0", point("m0", 5, 50), rate=4), *_of_groups("", "")[1:])
    assert said not in alike.unplaced[0].reason, "they are of one group, and differ in their mode"
    both = [
        dataclasses.replace(m, candidates=(*m.candidates, point(m.model, 4, 20)))
        for m in _of_groups("a", "b")
    ]
    assert _plan(HOSTS[:1], *both).unplaced == ()


def test_a_gpu_under_mps_that_passes_to_another_group_is_emptied_first() -> None:
    device, wanted = HOSTS[:1], _of_groups("a", "a", "b")
    old = _plan(device, *wanted[:2])
    now = _plan(device, wanted[2], running=old.placements)
    cost = diff_cost(diff_plans(old.placements, now.placements), device)
    assert [s.makes_way for s in cost.steps if s.kind is StepKind.START] == [True]
    regrouped = [dataclasses.replace(m, isolation_group="c") for m in wanted[:2]]
    request = PlanRequest(device, tuple(regrouped), running=old.placements, move_price=0.25)
    moved = plan_for(request)
    assert check_plan(moved, request.models, before=request.before) == ()
    assert moved.certificate.moves == 0, "they cannot stay, so their restarts are no moves"
    assert diff_plans(old.placements, moved.placements).keep == ()


def test_a_model_that_is_held_back_stays_in_the_group_that_it_runs_in() -> None:
    # Both fit the GPU only alone: another group takes an outage, which nobody has allowed.
    lone = want("m", point("m", 5, 50, sm=60), rate=4, isolation_group="a")
    old = _plan(HOSTS[:1], lone)
    moved = dataclasses.replace(lone, isolation_group="b")
    request = PlanRequest(HOSTS[:1], (moved,), running=old.placements, allow_outage=False)
    plan = plan_for(request)
    assert check_plan(plan, request.models, before=request.before) == ()
    assert [held.model for held in plan.held_back] == ["m"]
    assert plan.placements == old.placements


def test_what_cannot_survive_is_served_and_the_reason_names_the_loss() -> None:
    model = want("m", point("m", 5, 20), rate=4, rules=_rules(survive=FaultDomain.RACK))
    plan = _plan(HOSTS[:4], model)
    assert plan.placements
    (short,) = plan.unplaced
    assert "rack" in short.reason
    assert "rack" in short.remedy
    assert short.missing_req_per_s == 0


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (PlacementRules(only_on=("nowhere",)), "no device, host, rack or hardware"),
        (PlacementRules(only_on=("h100-80gb",)), "no device, host, rack or hardware"),
        (PlacementRules(near=("nobody",)), "not among the models"),
        (PlacementRules(near=("huge",)), "has no place itself"),
    ],
)
def test_rules_that_nothing_can_keep_are_the_reason(rules: PlacementRules, words: str) -> None:
    huge = want("huge", point("huge", 5, 500), rate=1)
    answer = solve(
        PlanRequest(HOSTS[:2], (want("m", point("m", 5, 20), rate=4, rules=rules), huge))
    )
    assert isinstance(answer, Infeasible)
    assert any(words in reason for reason in answer.reasons)
    assert answer.remedies


def test_names_that_do_no_harm_are_a_warning() -> None:
    rules = _rules(avoid=("nobody",), only_on=("nowhere", "node-0"))
    plan = _plan(HOSTS[:2], want("m", point("m", 5, 20), rate=4, rules=rules))
    assert any("avoid names nobody" in line for line in plan.explanation)
    assert any("only_on names nowhere" in line for line in plan.explanation)


def test_interchangeable_devices_are_those_of_one_host_once_a_rule_speaks_of_hosts() -> None:
    plain = want("m", point("m", 5, 20), rate=4)
    ruled = want("m", point("m", 5, 20), rate=4, rules=_rules(survive=FaultDomain.HOST))
    assert len(twins(build_instance(PlanRequest(HOSTS[:4], (plain,))))) == 1
    assert len(twins(build_instance(PlanRequest(HOSTS[:4], (ruled,))))) == 2


def test_what_is_missing_names_the_worst_loss_and_goes_when_it_is_made_good() -> None:
    model = want("m", point("m", 5, 20), rate=4, rules=_rules(survive=FaultDomain.HOST))
    instance = build_instance(PlanRequest(HOSTS[:4], (model,)))
    packing, (need,) = Packing(instance), instance.needs
    packing.add(0, 0, instance.groups[0].fits.index((0,)))
    lack = missing(packing, need)
    assert lack is not None
    assert lack.only_survival
    assert lack.rate_if_lost == need.survive_rate
    complete(Adding(packing, usual_prices(build_sites(instance))), instance.needs)
    assert missing(packing, need) is None
    assert not may_leave(packing, 0, 0)


@pytest.mark.parametrize(("size", "fits"), [(20, True), (70, False)])
def test_company_of_company_comes_along_or_nobody_does(size: int, fits: bool) -> None:
    """It has to be there first, and may not leave first."""
    chain = (
        want("a", point("a", 5, 20), rate=4, rules=_rules(near=("b",))),
        want("b", point("b", 5, 20), rate=4, rules=_rules(near=("c",))),
        want("c", point("c", 5, size), rate=4),
    )
    instance = build_instance(PlanRequest(HOSTS[:1], chain))
    packing = Packing(instance)
    assert not packing.fits(0, 0, 0)
    adding = Adding(packing, usual_prices(build_sites(instance)))
    assert adding.add_one(instance.needs[0]) is fits
    assert [*packing.counts.values()] == [int(fits)] * 3
    assert packing.used() == ([0] if fits else [])
    if fits:
        assert [may_leave(packing, 0, item) for item in range(3)] == [True, False, False]


def test_a_model_without_a_rate_that_cannot_survive_says_what_a_loss_leaves() -> None:
    model = want("m", point("m", 5, 20), rules=_rules(survive=FaultDomain.HOST))
    (short,) = _plan(HOSTS[:2], model).unplaced
    assert "no replica left when host node-0 is lost" in short.reason
    assert "only one host could hold it" in short.reason
    assert "min_replicas" not in short.reason
