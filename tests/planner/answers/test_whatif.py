"""Each change of a hypothetical world does what it says, and unknown names are refused."""

import dataclasses

import pytest

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model import spec as specs
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.answers.changes import world_under
from partitiond.planner.answers.whatif import RULES, World, without_rule
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, point, spec, want
from tests.planner.problems import plan_for


def world(*devices: object, specs: tuple[ModelSpec, ...] = (spec("a"), spec("b"))) -> World:
    there = devices or (gpu("gpu-0"), gpu("gpu-1", host="other", rack="r1"))
    return World(specs, there, Objective.MIN_DEVICES)  # type: ignore[arg-type]


def after(text: str, there: World | None = None, plan: Plan | None = None) -> World:
    return world_under(text, there or world(), plan)


def test_added_devices_are_like_those_there_are_and_on_hosts_of_their_own() -> None:
    there = world(gpu("gpu-0", cores=(0, 1), free_bytes=1, cordoned=True))
    new = after("+7 a100-80gb; +2 a100-80gb", there).devices[1:]
    assert len({d.id for d in new}) == 9
    assert {d.hardware for d in new} == {"a100-80gb"}
    assert len({d.host for d in after("+9 a100-80gb", there).devices[1:]}) == 2, "eight to a host"
    assert not {d.host for d in new} & {d.host for d in there.devices}
    assert not any(d.cordoned for d in new)
    assert all(d.free_bytes == d.memory_bytes for d in new)
    cores = [core for d in new[:7] for core in d.cores]
    assert len(set(cores)) == len(cores), "no core belongs to two of one host"
    other = after("+1 l4-24gb").devices[-1]
    assert (other.hardware, other.sm_count > 0) == ("l4-24gb", True), "it comes from the catalog"


REFUSED = {
    "+1 z9000": "no hardware",
    "-3 a100-80gb": "only 2",
    "-1 h100-80gb": "no device of the kind",
    "lose gpu-7": "no device 'gpu-7'",
    "lose rack r9": "no rack",
    "demand c*2": "no model 'c'",
    "without rule a.slo": "a has no rule slo",
    "without rule *.avoid": "no model has a rule",
    "demand b*1000000; demand b*1000000": "demand must lie between",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_there_or_can_be_in_no_spec_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=REFUSED[text]) as refused:
        after(text)
    assert refused.value.message.startswith(f"the what-if {text!r}: ")
    assert refused.value.hint
    assert "gpu-7" not in text or "gpu-" in refused.value.hint


def test_of_devices_to_be_removed_the_emptiest_go() -> None:
    demand = want("a", point("a", 5, 10, sm=20), rate=5)
    there = world()
    plan = plan_for(PlanRequest(there.devices, (demand,)))
    busy = plan.placements[0].device_id
    for text in ("-1 a100-80gb", "-1 a100"):  # a beginning will do
        assert [d.id for d in after(text, there, plan).devices] == [busy]


def test_what_is_lost_is_gone() -> None:
    for text, left in (
        ("lose gpu-0", ["cpu", "GPU-bb22"]),  # by its number
        ("lose GPU-bb", ["cpu", "GPU-aa11"]),
        ("lose host other", ["cpu", "GPU-aa11"]),
        ("lose rack r1", ["cpu", "GPU-aa11"]),
    ):
        there = world(cpu(), gpu("GPU-aa11"), gpu("GPU-bb22", host="other", rack="r1"))
        assert [d.id for d in after(text, there).devices] == left


def test_demands() -> None:
    bursty = dataclasses.replace(spec("a"), demand=Demand(5.0, burst_factor=3.0, weight=2.0))
    busy = world(specs=(bursty, spec("b", None)))
    set_ = after("demand a=7/s", busy).specs[0].demand
    assert (set_.planned_req_per_s, set_.weight) == (7.0, 2.0), "it is the planned one"
    assert after("demand a*2", busy).specs[0].demand.req_per_s == 10
    assert after("demand *3", busy).specs[0].demand.req_per_s == 15
    assert after("demand a=max", busy).specs[0].demand.req_per_s is None
    with pytest.raises(InputError, match="no multiple"):
        after("demand b*2", busy)


def test_modes_are_those_of_gpus_alone() -> None:
    there = world(gpu("gpu-0"), cpu())
    limited = after("only mps", there).devices
    assert limited[0].modes == (SharingMode.MPS,)
    assert limited[1].modes == (SharingMode.CORES,)
    assert SharingMode.MPS not in after("no mps", there).devices[0].modes
    assert after("objective max-goodput").objective is Objective.MAX_GOODPUT
    assert [s.name for s in after("without model a").specs] == ["b"]


HOST = specs.FaultDomain.HOST
PLACES = specs.PlacementRules(("b",), ("c",), ("gpu-0",), survive=HOST, survive_share=0.5)
RULED = dataclasses.replace(
    spec("a", slo=specs.Slo(1.0, 0.1), isolation=specs.Isolation.DEVICE, rules=PLACES),
    min_replicas=2,
    max_replicas=3,
    isolation_group="lab",
)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "burst"])
def test_a_rule_that_is_dropped_is_the_only_thing_that_changes(rule: str) -> None:
    without = without_rule(RULED, rule)
    assert without != RULED
    assert without_rule(without, rule) == without
    others = [r for r in RULES if r not in (rule, "burst")]
    assert all(without_rule(without, other) != without for other in others)
    both = world(specs=(RULED, spec("b")))
    assert after(f"without rule *.{rule}", both).specs[0] == without


def test_a_what_if_that_is_fine_changes_the_world_as_its_changes_do() -> None:
    both = after("lose gpu-1; demand a*2")
    assert both == after("demand a*2", after("lose gpu-1"))
    assert (len(both.devices), both.specs[0].demand.req_per_s) == (1, 10)
