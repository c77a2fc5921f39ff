"""Eviction spares busy models, evicts none in vain, and takes the least expected wait first."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.replica.eviction import (
    NO_ROOM,
    Popularity,
    Resident,
    Room,
    RoomNeed,
    expected_rate,
    victims_for,
)


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


def need(memory: int = 4, units: int = 1, device: str = "cpu") -> list[RoomNeed]:
    return [RoomNeed(device, Room(memory, units))]


def nothing_free(_device_id: str) -> Room:
    return NO_ROOM


def test_nobody_goes_where_there_is_room() -> None:
    assert victims_for(need(), lambda _: Room(4, 1), [resident("a")]) == ()


def test_who_is_asked_for_least_goes_first() -> None:
    often, seldom = resident("often", rate=0.1), resident("seldom", rate=0.001)
    assert victims_for(need(), nothing_free, [often, seldom]) == ("seldom",)


def test_of_equally_wanted_the_one_that_starts_quickest_goes() -> None:
    slow, quick = resident("slow", restart=60), resident("quick", restart=5)
    assert victims_for(need(), nothing_free, [slow, quick]) == ("quick",)


def test_without_anything_else_known_the_longest_idle_goes() -> None:
    models = [
        resident(f"m{idle}", idle=idle, rate=expected_rate(0.0, idle)) for idle in (30, 90, 60)
    ]
    assert victims_for(need(), nothing_free, models) == ("m90",)


def test_the_busy_and_the_just_asked_for_stay() -> None:
    busy, fresh = resident("busy", busy=True), resident("fresh", idle=1.0)
    assert victims_for(need(), nothing_free, [busy, fresh], least_idle_seconds=3.0) is None


def test_several_go_where_one_is_not_enough_and_none_more_than_needed() -> None:
    small = [resident(f"s{n}", memory=2, rate=0.001 * (n + 1)) for n in range(4)]
    found = victims_for(need(memory=4, units=1), nothing_free, small)
    assert found == ("s0", "s1")


def test_a_small_one_stays_where_a_large_one_frees_enough_alone() -> None:
    small = resident("small", memory=1, rate=0.0001)
    large = resident("large", memory=4, rate=0.01)
    assert victims_for(need(memory=4), nothing_free, [small, large]) == ("large",)


def test_nobody_goes_in_vain() -> None:
    assert victims_for(need(memory=100), nothing_free, [resident("a"), resident("b")]) is None


def test_cores_count_beside_memory() -> None:
    two = [resident("a", rate=0.001), resident("b", rate=0.002)]
    assert victims_for(need(memory=1, units=2), nothing_free, two) == ("a", "b")


def test_of_several_devices_the_one_that_costs_least_waiting() -> None:
    here = resident("here", device="gpu-0", rate=0.5)
    there = resident("there", device="gpu-1", rate=0.001)
    ways = [RoomNeed("gpu-0", Room(4, 1)), RoomNeed("gpu-1", Room(4, 1))]
    assert victims_for(ways, nothing_free, [here, there]) == ("there",)


sizes = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(0, 1)), max_size=6)


@settings(max_examples=60)
@given(models=sizes, wanted=st.integers(1, 12), free=st.integers(0, 4))
def test_victims_suffice_are_idle_and_none_is_needless(
    models: list[tuple[int, bool, float]], wanted: int, free: int
) -> None:
    residents = [
        resident(f"m{n}", memory=size, units=0, busy=busy, rate=rate)
        for n, (size, busy, rate) in enumerate(models)
    ]
    sizes_of = {r.model: r.on("cpu").memory_bytes for r in residents}
    idle = [r.model for r in residents if not r.busy]
    found = victims_for(need(memory=wanted, units=0), lambda _: Room(free), residents)
    possible = free + sum(sizes_of[m] for m in idle) >= wanted
    assert (found is not None) == possible
    if found is not None:
        assert set(found) <= set(idle)
        freed = free + sum(sizes_of[m] for m in found)
        assert freed >= wanted
        assert all(freed - sizes_of[m] < wanted for m in found)


@settings(max_examples=60)
@given(models=st.lists(st.tuples(st.integers(1, 4), st.floats(0.001, 1)), min_size=1, max_size=6))
def test_of_equal_sizes_no_other_choice_waits_less(models: list[tuple[int, float]]) -> None:
    residents = [resident(f"m{n}", rate=rate, units=0) for n, (_, rate) in enumerate(models)]
    count = min(len(residents), models[0][0])
    found = victims_for(need(memory=4 * count, units=0), nothing_free, residents)
    assert found is not None
    prices = {r.model: r.price for r in residents}
    cost = math.fsum(prices[m] for m in found)
    best = min(math.fsum(prices[m] for m in some) for some in itertools.combinations(prices, count))
    assert cost == pytest.approx(best)


def test_a_gap_is_a_surprise_for_a_higher_rate() -> None:
    assert expected_rate(0.5, 0.0) == 0.5
    assert expected_rate(0.5, 1.0) == 0.5
    assert expected_rate(0.5, 100.0) == 0.01
    assert expected_rate(0.0, 100.0) == 0.01


def test_popularity_fades_and_reads_as_a_rate() -> None:
    known = Popularity()
    for second in range(0, 7200, 10):
        known = known.with_requests(1, float(second), 900.0)
    assert known.req_per_s(7200.0, 900.0) == pytest.approx(0.1, rel=0.05)
    assert known.req_per_s(8100.0, 900.0) == pytest.approx(0.05, rel=0.05)
