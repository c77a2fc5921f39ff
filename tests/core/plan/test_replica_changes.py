"""The reason of each replica's move is what two plans prove, in the words of its cause."""

import dataclasses

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.plan.record import ModelForecast, Placement, Plan
from partitiond.core.plan.replica_changes import ChangeKind, ReplicaChange, replica_changes
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import cpu, placement, plan


def forecast(
    model: str, replicas: int, demand: float | None = 1.0, each: float = 1.0
) -> ModelForecast:
    return ModelForecast(model, replicas, replicas * each, demand, 0.1, 0.01, ProfileKind.MEASURED)


def told(
    *placements: Placement,
    forecasts: tuple[ModelForecast, ...] = (),
    explanation: tuple[str, ...] = (),
    plan_id: str = "plan-2",
) -> Plan:
    made = plan(*placements, plan_id=plan_id)
    return dataclasses.replace(made, forecasts=forecasts, explanation=explanation)


def changes(
    new: Plan, old: Plan | None, device: Device | None = None, registered: str = "ab"
) -> list[ReplicaChange]:
    devices = [device or cpu()]
    return list(replica_changes(new, old, devices=devices, registered=list(registered)))


def test_nothing_changed_says_nothing() -> None:
    same = told(placement())
    assert changes(same, same) == []


def test_the_first_replica_says_what_the_plan_says_of_its_model() -> None:
    new = told(
        placement(),
        forecasts=(forecast("a", 1),),
        explanation=("a: 1 replica, 1 requests/s for 1 wanted; the smallest that does.",),
    )
    (change,) = changes(new, None)
    assert (change.kind, change.replica_id) == (ChangeKind.STARTS, "a-1")
    assert change.what.startswith("on cpu (cores-1, batch 4, ")
    assert change.why == (
        "the first plan with a: 1 replica, 1 requests/s for 1 wanted; the smallest that does"
    )


def test_more_demand_starts_and_less_stops() -> None:
    one, two = placement("a-1", (0,)), placement("a-2", (1,))
    small = told(one, forecasts=(forecast("a", 1, 1.0),))
    large = told(one, two, forecasts=(forecast("a", 2, 2.0),))
    (started,), (stopped,) = changes(large, small), changes(small, large)
    assert started.why == "the demand of a went from 1 requests/s to 2 requests/s"
    assert stopped.kind is ChangeKind.STOPS
    assert stopped.why == "the demand of a went from 2 requests/s to 1 requests/s"


def test_slower_replicas_need_more_of_them() -> None:
    one, two = placement("a-1", (0,)), placement("a-2", (1,))
    before = told(one, forecasts=(forecast("a", 1, each=1.2),))
    after = told(one, two, forecasts=(forecast("a", 2, each=0.78),))
    (change,) = changes(after, before)
    assert change.why == "a replica of a is planned with 0.78 requests/s, before 1.2"


def test_a_removed_model_is_why_its_replicas_stop() -> None:
    (change,) = changes(told(), told(placement()), registered="b")
    assert change.why == "a was removed"


def test_a_cordoned_or_missing_device_is_why_replicas_leave() -> None:
    old, new = told(placement("a-1", (0,))), told(placement("a-1", (1,)))
    cordoned = dataclasses.replace(cpu(), cordoned=True, cordon_reason="Xid 79")
    (moved,) = changes(new, old, cordoned)
    assert moved.kind is ChangeKind.MOVES
    assert moved.what == "to another part of cpu"
    assert moved.why == "cpu is cordoned: Xid 79"
    (gone,) = changes(new, old, dataclasses.replace(cpu(), id="other"))
    assert gone.why == "cpu is not there any more"


def test_another_profile_or_correction_is_why_a_replica_runs_otherwise() -> None:
    old = placement(batch=4)
    other = dataclasses.replace(old.candidate, profile_id="profile-new", batch=8)
    (change,) = changes(told(dataclasses.replace(old, candidate=other)), told(old))
    assert change.what == "batch 4 to 8"
    assert change.why == "another profile counts now (measured: profile-new)"
    slower = dataclasses.replace(old.candidate, correction=0.75, batch=2)
    (change,) = changes(told(dataclasses.replace(old, candidate=slower)), told(old))
    assert change.why == "its figures are planned times 0.75, before 1.00"


def test_another_release_is_why_a_replica_is_replaced() -> None:
    def of(release: str, core: int, variant: str = "") -> Plan:
        plain = placement("a-1", (core,))
        candidate = dataclasses.replace(plain.candidate, release=release, variant=variant)
        return told(dataclasses.replace(plain, candidate=candidate), forecasts=(forecast("a", 1),))

    (elsewhere,) = changes(of("2" * 16, 1), of("1" * 16, 0))
    assert elsewhere.what == "to another part of cpu, to another release"
    assert elsewhere.why == "another release of a: what its engines are made of changed"
    (in_place,) = changes(of("2" * 16, 0), of("1" * 16, 0))
    assert in_place.what == "to another release"
    (same,) = changes(of("1" * 16, 1), of("1" * 16, 0))
    assert "release" not in same.what + same.why
    (form,) = changes(of("2" * 16, 0, "fp8"), of("1" * 16, 0))
    assert form.what == "form the model itself to fp8", "its variant is a release of its own"


def test_a_place_that_goes_to_another_says_to_whom() -> None:
    a, b = placement("a-1", (0,)), placement("b-1", (0,))
    started, stopped = changes(told(b, forecasts=(forecast("b", 1),)), told(a))
    assert started.replica_id == "b-1"
    assert stopped.why == "its place goes to b-1"


def test_what_is_left_is_the_objective() -> None:
    a, b = placement("a-1", (0,)), placement("a-1", (1,))
    both = (forecast("a", 1),)
    (change,) = changes(told(b, forecasts=both), told(a, forecasts=both))
    assert change.why.startswith("the plan is better so by min-devices; 1 replica, ")


def test_gpus_are_named_by_the_beginning_of_their_uuid() -> None:
    def on(device_id: str) -> Placement:
        share = MemoryShare(device_id, Bytes(GIB))
        return dataclasses.replace(placement(), device_id=device_id, partition=share)

    begins = "GPU-11111111", "GPU-22222222"
    old, new = (on(f"{begin}-65d6-5286-b454-b7c2ad387d1b") for begin in begins)
    (change,) = changes(told(new), told(old))
    assert change.what.startswith("from GPU-11111111 to GPU-22222222")
    assert change.why == "GPU-11111111 is not there any more"


def test_with_several_hosts_a_place_names_its_host() -> None:
    new = told(placement(), forecasts=(forecast("a", 1),))
    here = dataclasses.replace(cpu(), host="head")
    other = dataclasses.replace(cpu(), id="cpu-gpu-1", host="gpu-1")
    (change,) = replica_changes(new, None, devices=[here, other], registered=["a"])
    assert change.what.startswith("on cpu of head (cores-1, batch 4, ")
