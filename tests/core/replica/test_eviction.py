"""Eviction spares busy models, evicts none in vain, and takes the least expected wait first."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.replica import eviction
from partitiond.core.replica.eviction import NO_ROOM, Resident, Room, RoomNeed


def resident(
    model: str,
    *,
    idle: float = 60.0,
    rate: float = 0.01,
    restart: float = 20.0,
    memory: int = 4,
    units: int = 1,
    device: str = "cpu",
    busy: bool = False,
) -> Resident:
    return Resident(model, idle, rate, restart, ((device, Room(memory, units)),), busy)


def victims(
    residents: list[Resident],
    memory: int = 4,
    units: int = 1,
    free: Room = NO_ROOM,
    devices: tuple[str, ...] = ("cpu",),
) -> tuple[str, ...] | None:
    needs = [RoomNeed(device, Room(memory, units)) for device in devices]
    return eviction.victims_for(needs, lambda _: free, residents, least_idle_seconds=3.0)


def only_idle(idle: float) -> Resident:
    return resident(f"m{idle:.0f}", idle=idle, rate=eviction.expected_rate(0.0, idle))


@pytest.mark.parametrize(
    ("residents", "gone"),
    [
        ([resident("often", rate=0.1), resident("seldom", rate=0.001)], "seldom"),
        ([resident("slow", restart=60), resident("quick", restart=5)], "quick"),
        ([only_idle(30), only_idle(90), only_idle(60)], "m90"),
        ([resident("fresh", idle=2.9, rate=0.0), resident("long", idle=3.0)], "long"),
    ],
    ids=["asked for least", "starts quickest", "longest idle", "not just asked for"],
)
def test_of_equal_sizes_the_cheapest_to_miss_goes(residents: list[Resident], gone: str) -> None:
    assert victims(residents) == (gone,)


def test_cores_count_and_of_several_devices_the_one_that_costs_least_waiting() -> None:
    two = [resident("a", rate=0.001), resident("b", rate=0.002)]
    assert victims(two, memory=1, units=2) == ("a", "b")
    here = resident("here", device="gpu-0", rate=0.5)
    there = resident("there", device="gpu-1", rate=0.001)
    assert victims([here, there], devices=("gpu-0", "gpu-1")) == ("there",)


SIZES = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(0, 1)), max_size=6)


@settings(max_examples=60)
@given(models=SIZES, wanted=st.integers(1, 12), free=st.integers(0, 4))
def test_victims_suffice_are_idle_and_none_is_needless(
    models: list[tuple[int, bool, float]], wanted: int, free: int
) -> None:
    residents = [
        resident(f"m{n}", memory=size, units=0, busy=busy, rate=rate)
        for n, (size, busy, rate) in enumerate(models)
    ]
    sizes = {r.model: r.on("cpu").memory_bytes for r in residents if not r.busy}
    found = victims(residents, wanted, 0, Room(free))
    assert (found is not None) == (free + sum(sizes.values()) >= wanted)
    if found is not None:
        assert set(found) <= sizes.keys()
        freed = free + sum(sizes[m] for m in found)
        assert freed >= wanted
        assert all(freed - sizes[m] < wanted for m in found)


@settings(max_examples=60)
@given(models=st.lists(st.tuples(st.integers(1, 4), st.floats(0.001, 1)), min_size=1, max_size=6))
def test_of_equal_sizes_no_other_choice_waits_less(models: list[tuple[int, float]]) -> None:
    residents = [resident(f"m{n}", rate=rate, units=0) for n, (_, rate) in enumerate(models)]
    count = min(len(residents), models[0][0])
    found = victims(residents, 4 * count, 0)
    assert found is not None
    prices = {r.model: r.price for r in residents}
    best = min(math.fsum(prices[m] for m in some) for some in itertools.combinations(prices, count))
    assert math.fsum(prices[m] for m in found) == pytest.approx(best)


def test_a_gap_is_a_surprise_for_a_higher_rate() -> None:
    assert [eviction.expected_rate(0.5, gap) for gap in (0.0, 1.0, 100.0)] == [0.5, 0.5, 0.01]
    assert eviction.expected_rate(0.0, 100.0) == 0.01


def test_popularity_fades_and_reads_as_a_rate() -> None:
    known = eviction.Popularity()
    for second in range(0, 7200, 10):
        known = known.with_requests(1, float(second), 900.0)
    assert known.req_per_s(7200.0, 900.0) == pytest.approx(0.1, rel=0.05)
    assert known.req_per_s(8100.0, 900.0) == pytest.approx(0.05, rel=0.05)
