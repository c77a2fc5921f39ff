"""The cost of applying a plan is right: time by device, memory on the way, and yielding models."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import CpuCores, MpsShare
from partitiond.core.plan.diff import START_SECONDS, DiffCost, StepKind, diff_cost
from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Candidate, Placement, diff_plans
from partitiond.core.units import GIB, Bytes
from tests.planner.build import cpu, gpu, on_cores, point


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


def test_starts_follow_each_other_on_a_device_and_side_by_side_on_several() -> None:
    cost = takes((placed("a-1"),), (placed("a-1"),))
    assert (cost.steps, cost.devices, cost.seconds, cost.load_bytes) == ((), (), 0.0, 0)
    two = (gpu("gpu-0"), gpu("gpu-1"))
    wanted = (placed("a-1"), placed("a-2"), placed("b-1", "gpu-1"))
    cost = takes((), wanted, *two, seen={"a": 30.0, "b": 50.0})
    assert cost.seconds == 60.0
    assert {c.device_id: c.seconds for c in cost.devices} == {"gpu-0": 60.0, "gpu-1": 50.0}
    assert all(step.measured for step in cost.steps)


def test_an_engine_at_other_host_cores_is_another_one() -> None:
    of = (point("a", 5, 10, sm=20, cores=cores) for cores in (1, 2))
    old, new = (dataclasses.replace(placed("a-1"), candidate=candidate) for candidate in of)
    assert diff_plans((old,), (new,)).move == ((old, new),)


def test_a_start_nobody_saw_is_estimated_from_its_bytes() -> None:
    small, large = (takes((), (placed("a-1", gib=gib),)) for gib in (2, 40))
    assert not small.steps[0].measured
    assert START_SECONDS["gpu"] < small.seconds < large.seconds  # type: ignore[index]
    assert small.load_bytes == GIB, "the footprint without the KV cache"


@pytest.mark.parametrize(
    ("old", "new", "makes_way", "peak_gib"),
    [
        (placed("a-1", gib=10), placed("a-1", gib=20), False, 30),
        (placed("a-1", gib=50), placed("a-1", gib=60), True, 60),
        (placed("a-1", sm=60), placed("a-1", sm=70), True, 10),
    ],
    ids=["room for both", "no memory for both", "no SMs for both"],
)
def test_old_and_new_are_there_together_where_there_is_room(
    old: Placement, new: Placement, makes_way: bool, peak_gib: int
) -> None:
    cost = takes((old,), (new,), seen={"a": 30.0})
    (step,), (device,) = cost.steps, cost.devices
    assert (step.kind, step.makes_way) == (StepKind.MOVE, makes_way)
    assert device.peak_bytes == peak_gib * GIB
    assert cost.peak_extra_bytes == (0 if makes_way else 10 * GIB)
    # The outage lasts from the drain to the new one.
    told = [(o.model, o.from_seconds, o.to_seconds) for o in cost.outages]
    assert told == [("a", 0.0, 30.0 + drain_seconds(old))] * makes_way


def test_who_is_in_the_place_itself_leaves_before_others() -> None:
    def on(replica: str, core: int, gib: int) -> Placement:
        part = CpuCores("cpu", Bytes(gib * GIB), (core,))
        candidate = on_cores(replica[0], 5, 1, gib)
        return Placement(replica, replica[0], "cpu", part, candidate)

    cost = takes((on("a-1", 0, 4), on("b-1", 1, 4)), (on("c-1", 1, 8),), cpu(2))
    assert cost.devices[0].peak_bytes == (4 + 8) * GIB, "a-1 stays until c-1 is there"


def test_stops_take_no_time_and_what_was_on_a_lost_device_is_told() -> None:
    cost = takes((placed("a-1"), placed("b-1", "gone")), ())
    assert [(s.kind, s.device_id) for s in cost.steps] == [
        (StepKind.STOP, "gpu-0"),
        (StepKind.STOP, "gone"),
    ]
    assert (cost.seconds, cost.devices[0].after_bytes) == (0.0, 0)
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


def test_no_outage_is_told_of_what_another_serves_or_before_its_turn() -> None:
    both = (placed("a-1", gib=30), placed("a-2", gib=30))
    assert takes(both, (placed("a-1", gib=35), placed("a-2", gib=35))).outages == ()
    assert takes((placed("a-1", gib=50),), (placed("b-1", gib=60),)).outages == ()
    # The new model comes first: the change of the other brings nothing more.
    running = (placed("a-1", gib=50),)
    wanted = (placed("a-1", gib=55), placed("b-1", gib=15))
    (outage,) = takes(running, wanted, seen={"a": 30.0, "b": 20.0}).outages
    assert outage.from_seconds == 20.0
    assert outage.seconds == 30.0 + drain_seconds(running[0])
