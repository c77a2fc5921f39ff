"""Each rule of a plan, broken by hand, is named by the checker."""

import dataclasses
from collections.abc import Callable

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MpsShare
from partitiond.core.model.spec import Isolation, Slo
from partitiond.core.plan.record import Infeasible, ModelDemand, Placement, Plan, Status, Unplaced
from partitiond.core.units import GIB, Bytes
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want

MODELS = (
    want("a", point("a", 10, 30, sm=40), rate=15),
    want("b", point("b", 5, 20, sm=20), rate=4),
)


def good() -> Plan:
    """Two models on MPS shares of one GPU."""
    plan = solve(PlanRequest((gpu("gpu-0", gib=90), gpu("gpu-1", gib=90)), MODELS))
    assert not isinstance(plan, Infeasible)
    assert check_plan(plan, MODELS) == ()
    return plan


def change(plan: Plan, position: int, **values: object) -> Plan:
    """The plan with one placement changed."""
    placements = list(plan.placements)
    placements[position] = dataclasses.replace(placements[position], **values)  # type: ignore[arg-type]
    return dataclasses.replace(plan, placements=tuple(placements))


def share(p: Placement, **values: object) -> MpsShare:
    """The placement's partition, changed."""
    assert isinstance(p.partition, MpsShare)
    return dataclasses.replace(p.partition, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda p: change(p, 0, device_id="gpu-9"), "does not exist"),
        (lambda p: change(p, 0, replica_id=p.placements[1].replica_id), "is used 2 times"),
        (lambda p: change(p, 0, model="c"), "was not asked for"),
        (lambda p: change(p, 0, candidate=point("a", 99, 30, sm=40)), "no candidate of a"),
        (lambda p: change(p, 0, partition=share(p.placements[0], device_id="x")), "its partition"),
        (
            lambda p: change(p, 0, partition=share(p.placements[0], memory_bytes=Bytes(1))),
            "its partition has less",
        ),
        (
            lambda p: change(p, 0, partition=share(p.placements[0], sm_percent=90)),
            "% of SMs, placed at 90",
        ),
        (
            lambda p: change(p, 0, partition=share(p.placements[0], memory_bytes=Bytes(80 * GIB))),
            "after headroom",
        ),
        (
            lambda p: change(
                p, 0, partition=MemoryShare(p.placements[0].device_id, Bytes(30 * GIB))
            ),
            "several modes",
        ),
        (lambda p: dataclasses.replace(p, placements=p.placements[1:]), "is not unplaced"),
        (lambda p: dataclasses.replace(p, forecasts=()), "its forecast says otherwise"),
        (
            lambda p: dataclasses.replace(
                p, certificate=dataclasses.replace(p.certificate, value=9.0)
            ),
            "the certificate's value is 9",
        ),
        (
            lambda p: dataclasses.replace(
                p, certificate=dataclasses.replace(p.certificate, bound=5.0)
            ),
            "better than its bound",
        ),
        (
            lambda p: dataclasses.replace(
                p,
                certificate=dataclasses.replace(
                    p.certificate, bound=0.5, gap=0.5, status=Status.OPTIMAL
                ),
            ),
            "says optimal with a gap",
        ),
        (
            lambda p: dataclasses.replace(p, unplaced=(Unplaced("a", "no", 3.0),)),
            "the plan says otherwise",
        ),
    ],
)
def test_a_broken_plan_is_refused_with_the_rule_it_breaks(
    breaks: Callable[[Plan], Plan], says: str
) -> None:
    assert says in " ; ".join(check_plan(breaks(good()), MODELS))


def test_more_than_all_sms_are_refused() -> None:
    plan = good()
    greedy = point("a", 10, 30, sm=90)
    models = (dataclasses.replace(MODELS[0], candidates=(greedy,)), MODELS[1])
    moved = plan
    for n, p in enumerate(plan.placements):
        if p.model == "a":
            partition = share(p, sm_percent=90)
            moved = change(moved, n, candidate=greedy, partition=partition)
    assert "% of its SMs" in " ; ".join(check_plan(moved, models))


def grouped(plan: Plan, **of: str) -> tuple[Plan, tuple[ModelDemand, ...]]:
    """The plan and its models, each of a group; partitions say so, too."""
    models = tuple(dataclasses.replace(m, isolation_group=of.get(m.model, "")) for m in MODELS)
    for n, p in enumerate(plan.placements):
        plan = change(plan, n, partition=share(p, isolation_group=of.get(p.model, "")))
    return plan, models


def test_two_isolation_groups_under_one_mps_daemon_are_refused_by_name() -> None:
    assert check_plan(*grouped(good(), a="x", b="x")) == ()
    (said, *_) = check_plan(*grouped(good(), b="x"))
    assert said == (
        "b and a share gpu-0 under MPS and are of different isolation groups, and an MPS daemon "
        "serves one group"
    )
    wrong, _ = grouped(good(), a="x", b="x")
    assert "a-1 is not placed as of the isolation group of a" in check_plan(wrong, MODELS)
    plan, models = grouped(good(), a="x", b="x")
    kept = tuple(dataclasses.replace(d, mps_group="y") for d in plan.devices)
    said = check_plan(dataclasses.replace(plan, devices=kept), models)[0]
    assert said.startswith("a and what sleeps or is measured share gpu-0 under MPS")


def changed_wish(**values: object) -> tuple[ModelDemand, ...]:
    """The models with something more asked of the first."""
    return (dataclasses.replace(MODELS[0], **values), MODELS[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (changed_wish(isolation=Isolation.DEVICE), "a device of its own"),
        (changed_wish(max_replicas=1), "at most 1 are wanted"),
        (changed_wish(min_replicas=5), "not listed as unplaced"),
        (changed_wish(slo=Slo(0.101, 0.0101)), "miss the TTFT bound"),
    ],
)
def test_a_wish_that_the_plan_ignores_is_named(models: tuple[ModelDemand, ...], says: str) -> None:
    assert says in " ; ".join(check_plan(good(), models))


def test_two_replicas_never_share_a_core() -> None:
    models = (want("a", on_cores("a", 5, 1)), want("b", on_cores("b", 5, 1)))
    plan = solve(PlanRequest((cpu(2),), models))
    assert not isinstance(plan, Infeasible)
    first = plan.placements[0].partition
    assert isinstance(first, CpuCores)
    second = dataclasses.replace(first, memory_bytes=plan.placements[1].partition.memory_bytes)
    found = " ; ".join(check_plan(change(plan, 1, partition=second), models))
    assert "belongs to both" in found
    outside = dataclasses.replace(second, cores=(7,))
    assert "does not have" in " ; ".join(check_plan(change(plan, 1, partition=outside), models))


def test_engines_on_gpus_need_host_cores_and_host_memory_as_well() -> None:
    models = (want("a", point("a", 5, 10, sm=10, host_gib=30)),)
    device = gpu(cores=(0,))
    plan = solve(PlanRequest((device,), models))
    assert not isinstance(plan, Infeasible)
    few = dataclasses.replace(plan, devices=(device, cpu(1, gib=24)))
    assert "of host memory" in " ; ".join(check_plan(few, models))
    p = plan.placements[0]
    twice = dataclasses.replace(
        plan, placements=(p, dataclasses.replace(p, replica_id="a-2")), devices=(device,)
    )
    assert "need 2 host cores" in " ; ".join(check_plan(twice, models))


def test_a_mode_the_device_forbids_is_refused() -> None:
    plan = good()
    only = tuple(dataclasses.replace(d, modes=(SharingMode.MEMORY,)) for d in plan.devices)
    found = " ; ".join(check_plan(dataclasses.replace(plan, devices=only), MODELS))
    assert "does not allow the mode mps" in found
