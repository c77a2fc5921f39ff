"""The reason of each replica's move is what two plans prove, in the words of its cause."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.plan.record import ModelForecast, Placement, Plan, Unplaced
from partitiond.core.plan.replica_changes import ChangeKind, ReplicaChange, replica_changes
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import cpu, placement, plan


def forecast(
    model: str, replicas: int, demand: float | None = 1.0, each: float = 1.0
) -> ModelForecast:
    return ModelForecast(model, replicas, replicas * each, demand, 0.1, 0.01, ProfileKind.MEASURED)


def told(*placements: Placement, forecasts: Sequence[ModelForecast] = (), why: str = "") -> Plan:
    explanation = (why,) if why else ()
    return dataclasses.replace(
        plan(*placements, plan_id="plan-2"), forecasts=tuple(forecasts), explanation=explanation
    )


def changes(
    new: Plan, old: Plan | None, device: Device | None = None, registered: str = "ab"
) -> list[ReplicaChange]:
    devices = [device or cpu()]
    return list(replica_changes(new, old, devices=devices, registered=list(registered)))


def like(
    core: int = 0, *, batch: int = 4, forecasts: Sequence[ModelForecast] = (), **candidate: Any
) -> Plan:
    """A plan of a-1 on this core, of another candidate."""
    base = placement("a-1", (core,), batch=batch)
    changed = dataclasses.replace(base.candidate, **candidate)
    return told(dataclasses.replace(base, candidate=changed), forecasts=forecasts)


def on_gpu(begin: str) -> Plan:
    device_id = f"{begin}-65d6-5286-b454-b7c2ad387d1b"
    share = MemoryShare(device_id, Bytes(GIB))
    return told(dataclasses.replace(placement(), device_id=device_id, partition=share))


def of(replicas: int, demand: float = 1.0, each: float = 1.0) -> Plan:
    """A plan of so many replicas of a, each on a core of its own."""
    there = [placement(f"a-{n + 1}", (n,)) for n in range(replicas)]
    return told(*there, forecasts=[forecast("a", replicas, demand, each)])


STARTS, STOPS, MOVES = ChangeKind.STARTS, ChangeKind.STOPS, ChangeKind.MOVES
CORDONED = dataclasses.replace(cpu(), cordoned=True, cordon_reason="Xid 79")
GONE = dataclasses.replace(cpu(), id="other")
FIRST, SECOND = "1" * 16, "2" * 16
ONE = [forecast("a", 1)]


@pytest.mark.parametrize(
    ("new", "old", "given", "what", "why"),
    [
        (told(placement(), forecasts=ONE, why="a: 1 replica, 1 requests/s for 1 wanted; the "
              "smallest that does."), None, {}, "on cpu (cores-1, batch 4, ",
         "the first plan with a: 1 replica, 1 requests/s for 1 wanted; the smallest that does"),
        (of(2, 2.0), of(1, 1.0), {}, "",
         "the demand of a went from 1 requests/s to 2 requests/s"),
        (of(1, 1.0), of(2, 2.0), {}, "",
         "the demand of a went from 2 requests/s to 1 requests/s"),
        (of(2, each=0.78), of(1, each=1.2), {}, "",
         "a replica of a is planned with 0.78 requests/s, before 1.2"),
        (told(), told(placement()), {"registered": "b"}, "", "a was removed"),
        (like(1), like(), {"device": CORDONED}, "to another part of cpu",
         "cpu is cordoned: Xid 79"),
        (like(1), like(), {"device": GONE}, "to another part of cpu",
         "cpu is not there any more"),
        (like(batch=8, profile_id="profile-new"), like(), {}, "batch 4 to 8",
         "another profile counts now (measured: profile-new)"),
        (like(batch=2, correction=0.75), like(), {}, "batch 4 to 2",
         "its figures are planned times 0.75, before 1.00"),
        (like(1, release=SECOND), like(release=FIRST), {},
         "to another part of cpu, to another release",
         "another release of a: what its engines are made of changed"),
        (like(release=SECOND), like(release=FIRST), {}, "to another release", "another release"),
        # Its variant is a release of its own.
        (like(release=SECOND, variant="fp8"), like(release=FIRST), {},
         "form the model itself to fp8", ""),
        (like(1, forecasts=ONE), like(forecasts=ONE), {}, "to another part of cpu",
         "the plan is better so by min-devices; 1 replica, "),
        (on_gpu("GPU-22222222"), on_gpu("GPU-11111111"), {},
         "from GPU-11111111 to GPU-22222222", "GPU-11111111 is not there any more"),
    ],
)  # fmt: skip
def test_a_change_says_what_and_why(
    new: Plan, old: Plan | None, given: dict[str, Any], what: str, why: str
) -> None:
    (change,) = changes(new, old, **given)
    before = 0 if old is None else len(old.placements)
    kinds = {1: STARTS, 0: MOVES, -1: STOPS}
    assert change.kind is kinds[len(new.placements) - before]
    assert change.what.startswith(what)
    assert ("release" in change.what) == ("release" in what)
    assert change.why.startswith(why)


def test_a_stop_says_why_its_own_model_has_no_room() -> None:
    left_out = tuple(Unplaced(name, f"no room for {name}", 1.0) for name in "ba")
    for unplaced, why in ((left_out, "no room for a"), (left_out[:1], "the plan is better so by")):
        (stopped,) = changes(dataclasses.replace(told(), unplaced=unplaced), told(placement()))
        assert stopped.why.startswith(why)


def test_a_place_that_goes_to_another_says_to_whom() -> None:
    a, b = placement("a-1", (0,)), placement("b-1", (0,))
    started, stopped = changes(told(b, forecasts=[forecast("b", 1)]), told(a))
    assert started.replica_id == "b-1"
    assert stopped.why == "its place goes to b-1"
    same = told(placement())
    assert changes(same, same) == []


def test_with_several_hosts_a_place_names_its_host() -> None:
    here = dataclasses.replace(cpu(), host="head")
    other = dataclasses.replace(cpu(), id="cpu-gpu-1", host="gpu-1")
    (change,) = replica_changes(like(forecasts=ONE), None, devices=[here, other], registered=["a"])
    assert change.what.startswith("on cpu of head (cores-1, batch 4, ")
