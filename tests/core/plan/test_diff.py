"""The cost of applying a plan is right: time by device, memory on the way, and yielding models."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import MpsShare
from partitiond.core.plan.diff import START_SECONDS, DiffCost, StepKind, diff_cost
from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Candidate, Placement, diff_plans
from partitiond.core.units import GIB, Bytes
from tests.planner.build import gpu, point


def placed(
    replica: str, device: str = "gpu-0", gib: float = 10, sm: int = 20, batch: int = 8
) -> Placement:
    candidate: Candidate = point(replica.rsplit("-", 1)[0], 5, gib, sm=sm, batch=batch)
    part = MpsShare(device, candidate.memory_bytes, sm)
    return Placement(replica, candidate.model, device, part, candidate)


def takes(
    running: tuple[Placement, ...],
    wanted: tuple[Placement, ...],
    *devices: Device,
    seen: dict[str, float] | None = None,
) -> DiffCost:
    return diff_cost(diff_plans(running, wanted), devices or (gpu("gpu-0"),), seen)


def test_nothing_to_do_takes_nothing() -> None:
    cost = takes((placed("a-1"),), (placed("a-1"),))
    assert (cost.steps, cost.devices, cost.seconds, cost.load_bytes) == ((), (), 0.0, 0)


def test_starts_on_one_device_follow_each_other_and_devices_work_side_by_side() -> None:
    two = (gpu("gpu-0"), gpu("gpu-1"))
    wanted = (placed("a-1"), placed("a-2"), placed("b-1", "gpu-1"))
    cost = takes((), wanted, *two, seen={"a": 30.0, "b": 50.0})
    assert cost.seconds == 60.0
    assert {c.device_id: c.seconds for c in cost.devices} == {"gpu-0": 60.0, "gpu-1": 50.0}
    assert all(step.measured for step in cost.steps)


def test_a_start_nobody_saw_is_estimated_from_its_bytes() -> None:
    small, large = takes((), (placed("a-1", gib=2),)), takes((), (placed("a-1", gib=40),))
    (step,) = small.steps
    assert not step.measured
    assert START_SECONDS["gpu"] < small.seconds < large.seconds  # type: ignore[index]
    assert small.load_bytes == GIB, "the footprint without the KV cache"


def test_old_and_new_are_there_together_where_there_is_room() -> None:
    old, new = placed("a-1", gib=10), placed("a-1", gib=20)
    cost = takes((old,), (new,))
    (step,), (device,) = cost.steps, cost.devices
    assert (step.kind, step.makes_way) == (StepKind.MOVE, False)
    assert device.before_bytes == 10 * GIB
    assert device.after_bytes == 20 * GIB
    assert device.peak_bytes == 30 * GIB
    assert cost.peak_extra_bytes == 10 * GIB


def test_where_there_is_no_room_the_old_one_makes_way() -> None:
    old, new = placed("a-1", gib=50), placed("a-1", gib=60)
    cost = takes((old,), (new,))
    assert cost.steps[0].makes_way
    assert cost.peak_extra_bytes == 0


def test_sms_make_way_too() -> None:
    old, new = placed("a-1", sm=60), placed("a-1", sm=70)
    assert takes((old,), (new,)).steps[0].makes_way


def test_stops_take_no_time_and_what_was_on_a_lost_device_is_told() -> None:
    cost = takes((placed("a-1"), placed("b-1", "gone")), ())
    assert [(s.kind, s.device_id) for s in cost.steps] == [
        (StepKind.STOP, "gpu-0"),
        (StepKind.STOP, "gone"),
    ]
    assert cost.seconds == 0.0
    assert cost.devices[0].after_bytes == 0


def test_a_replica_that_moves_says_from_where() -> None:
    old = placed("a-1", "gone")
    new = dataclasses.replace(old, device_id="gpu-0", partition=placed("a-1").partition)
    (step,) = takes((old,), (new,)).steps
    assert (step.from_device_id, step.device_id) == ("gone", "gpu-0")


ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 25), st.integers(5, 40)), max_size=6)


@given(ROWS, ROWS)
def test_the_peak_is_at_least_both_ends_and_never_more_than_there_is(
    before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]
) -> None:
    def plan(rows: list[tuple[int, int, int]]) -> tuple[Placement, ...]:
        return tuple(
            placed(f"m{n}-1", f"gpu-{device}", gib, sm) for n, (device, gib, sm) in enumerate(rows)
        )

    devices = (gpu("gpu-0", gib=200), gpu("gpu-1", gib=200))
    running, wanted = plan(before), plan(after)
    cost = takes(running, wanted, *devices)
    for change in cost.devices:
        ends = [
            sum(p.partition.memory_bytes for p in end if p.device_id == change.device_id)
            for end in (running, wanted)
        ]
        assert [change.before_bytes, change.after_bytes] == ends
        assert max(ends) <= change.peak_bytes <= sum(ends)
        assert change.peak_bytes <= max(change.room_bytes, *ends)
    assert cost.seconds >= max((c.seconds for c in cost.devices), default=0.0)
    assert Bytes(cost.peak_extra_bytes) >= 0


def test_no_outage_is_told_where_old_and_new_fit_side_by_side() -> None:
    assert takes((placed("a-1", gib=10),), (placed("a-1", gib=20),)).outages == ()


def test_where_they_do_not_fit_the_outage_lasts_from_the_drain_to_the_new_one() -> None:
    old, new = placed("a-1", gib=50), placed("a-1", gib=60)
    (outage,) = takes((old,), (new,), seen={"a": 30.0}).outages
    assert (outage.model, outage.from_seconds) == ("a", 0.0)
    assert outage.to_seconds == 30.0 + drain_seconds(old)


def test_a_replica_that_makes_way_while_another_serves_is_no_outage() -> None:
    running = (placed("a-1", gib=30), placed("a-2", gib=30))
    assert takes(running, (placed("a-1", gib=35), placed("a-2", gib=35))).outages == ()


def test_an_outage_begins_when_its_turn_comes() -> None:
    """The new model comes first: the change of the other brings nothing more."""
    running = (placed("a-1", gib=50),)
    wanted = (placed("a-1", gib=55), placed("b-1", gib=15))
    (outage,) = takes(running, wanted, seen={"a": 30.0, "b": 20.0}).outages
    assert outage.from_seconds == 20.0
    assert outage.seconds == 30.0 + drain_seconds(running[0])


def test_models_that_come_or_go_have_no_outage() -> None:
    assert takes((placed("a-1", gib=50),), (placed("b-1", gib=60),)).outages == ()
