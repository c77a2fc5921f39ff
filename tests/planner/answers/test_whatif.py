"""Each change of a hypothetical world does what it says, and unknown names are refused."""

import dataclasses

import pytest

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import (
    Demand,
    FaultDomain,
    Isolation,
    ModelSource,
    ModelSpec,
    PlacementRules,
    Slo,
    SourceKind,
)
from partitiond.core.plan.record import Objective, Plan
from partitiond.planner.answers.changes import world_under
from partitiond.planner.answers.whatif import RULES, World, without_rule
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, point, want


def spec(name: str, rate: float | None = 5.0, **more: object) -> ModelSpec:
    source = ModelSource(SourceKind.CONFIG, name)
    return ModelSpec(name, source, demand=Demand(rate), **more)  # type: ignore[arg-type]


def world(*devices: object, specs: tuple[ModelSpec, ...] = (spec("a"), spec("b"))) -> World:
    there = devices or (gpu("gpu-0"), gpu("gpu-1", host="other", rack="r1"))
    return World(specs, there, Objective.MIN_DEVICES)  # type: ignore[arg-type]


def after(text: str, there: World | None = None, plan: Plan | None = None) -> World:
    return world_under(text, there or world(), plan)


def test_added_devices_are_like_those_there_are_and_on_hosts_of_their_own() -> None:
    there = world(gpu("gpu-0", cores=(0, 1), free_bytes=1, cordoned=True))
    new = after("+9 a100-80gb", there).devices[1:]
    assert len({d.id for d in new}) == 9
    assert {d.hardware for d in new} == {"a100-80gb"}
    assert len({d.host for d in new}) == 2, "eight to a host"
    assert not {d.host for d in new} & {d.host for d in there.devices}
    assert not any(d.cordoned for d in new)
    assert all(d.free_bytes == d.memory_bytes for d in new)
    cores = [core for d in new[:8] for core in d.cores]
    assert len(set(cores)) == len(cores), "no core belongs to two of one host"


def test_a_kind_that_was_not_there_comes_from_the_catalog() -> None:
    new = after("+1 l4-24gb").devices[-1]
    assert (new.hardware, new.sm_count > 0) == ("l4-24gb", True)
    with pytest.raises(InputError, match="no hardware"):
        after("+1 z9000")


def test_added_twice_has_other_names() -> None:
    ids = [d.id for d in after("+2 a100-80gb; +2 a100-80gb").devices]
    assert len(set(ids)) == len(ids)


def test_of_devices_to_be_removed_the_emptiest_go() -> None:
    demand = want("a", point("a", 5, 10, sm=20), rate=5)
    there = world()
    plan = solve(PlanRequest(there.devices, (demand,)))
    assert isinstance(plan, Plan)
    busy = plan.placements[0].device_id
    assert [d.id for d in after("-1 a100-80gb", there, plan).devices] == [busy]
    assert [d.id for d in after("-1 a100", there, plan).devices] == [busy], "a beginning will do"
    with pytest.raises(InputError, match="only 2"):
        after("-3 a100-80gb")
    with pytest.raises(InputError, match="no device of the kind"):
        after("-1 h100-80gb")


def test_what_is_lost_is_gone() -> None:
    assert [d.id for d in after("lose gpu-0").devices] == ["gpu-1"]
    assert [d.id for d in after("lose host other").devices] == ["gpu-0"]
    assert [d.id for d in after("lose rack r1").devices] == ["gpu-0"]
    with pytest.raises(InputError, match="no device 'gpu-7'") as refused:
        after("lose gpu-7")
    assert "gpu-" in refused.value.hint
    with pytest.raises(InputError, match="no rack"):
        after("lose rack r9")


def test_gpus_can_be_lost_by_number_or_by_the_beginning_of_their_id() -> None:
    there = world(cpu(), gpu("GPU-aa11"), gpu("GPU-bb22"))
    assert [d.id for d in after("lose gpu-1", there).devices] == ["cpu", "GPU-aa11"]
    assert [d.id for d in after("lose GPU-bb", there).devices] == ["cpu", "GPU-aa11"]


def test_demands() -> None:
    busy = world(specs=(spec("a", 5.0), spec("b", None)))
    assert after("demand a=50/s", busy).specs[0].demand.req_per_s == 50
    assert after("demand a*2", busy).specs[0].demand.req_per_s == 10
    assert after("demand *3", busy).specs[0].demand.req_per_s == 15
    assert after("demand a=max", busy).specs[0].demand.req_per_s is None
    with pytest.raises(InputError, match="no multiple"):
        after("demand b*2", busy)
    with pytest.raises(InputError, match="no model 'c'"):
        after("demand c=1", busy)


def test_a_demand_that_is_set_is_the_planned_one() -> None:
    bursty = dataclasses.replace(spec("a"), demand=Demand(5.0, burst_factor=3.0, weight=2.0))
    demand = after("demand a=7", world(specs=(bursty,))).specs[0].demand
    assert (demand.planned_req_per_s, demand.weight) == (7.0, 2.0)


def test_modes_of_gpus_alone() -> None:
    there = world(gpu("gpu-0"), cpu())
    limited = after("only mps", there).devices
    assert limited[0].modes == (SharingMode.MPS,)
    assert limited[1].modes == (SharingMode.CORES,)
    assert SharingMode.MPS not in after("no mps", there).devices[0].modes


def test_objective_and_model() -> None:
    assert after("objective max-goodput").objective is Objective.MAX_GOODPUT
    assert [s.name for s in after("without model a").specs] == ["b"]


RULED = spec(
    "a",
    slo=Slo(1.0, 0.1),
    isolation=Isolation.DEVICE,
    isolation_group="lab",
    min_replicas=2,
    max_replicas=3,
    rules=PlacementRules(
        avoid=("b",), near=("c",), only_on=("gpu-0",), survive=FaultDomain.HOST, survive_share=0.5
    ),
)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "burst"])
def test_a_rule_that_is_dropped_is_the_only_thing_that_changes(rule: str) -> None:
    without = without_rule(RULED, rule)
    assert without != RULED
    assert without_rule(without, rule) == without
    others = [r for r in RULES if r not in (rule, "burst")]
    assert all(without_rule(without, other) != without for other in others)


def test_a_rule_that_is_not_there_cannot_be_dropped() -> None:
    with pytest.raises(InputError, match="a has no rule slo"):
        after("without rule a.slo")
    with pytest.raises(InputError, match="no model has a rule"):
        after("without rule *.avoid")
    assert after("without rule *.slo", world(specs=(RULED, spec("b")))).specs[0].slo is None


def test_a_value_no_model_can_have_is_told_with_the_what_if() -> None:
    text = "demand b*1000000; demand b*1000000"
    with pytest.raises(InputError) as refused:
        world_under(text, world())
    assert refused.value.message.startswith(f"the what-if {text!r}: demand must lie between")
    assert refused.value.hint


def test_a_what_if_that_is_fine_changes_the_world_as_its_changes_do() -> None:
    both = after("lose gpu-1; demand a*2")
    assert both == after("demand a*2", after("lose gpu-1"))
    assert (len(both.devices), both.specs[0].demand.req_per_s) == (1, 10)
