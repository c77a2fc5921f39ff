"""Models step down for others by the waiting that it costs, idle ones first, busy ones in turns."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.step_down import (
    MAX_TURN_SECONDS,
    MIN_TURN_SECONDS,
    NO_ROOM,
    Popularity,
    Resident,
    Room,
    RoomDecision,
    RoomNeed,
    StepDown,
    Waiter,
    counted_seconds,
    expected_rate,
    readiness,
)

HOST = "host"


def resident(
    model: str,
    *,
    idle: float = 60.0,
    rate: float = 0.01,
    start: float = 20.0,
    memory: int = 4,
    units: int = 1,
    device: str = "cpu",
    had: float = math.inf,
    priority: int = 0,
) -> Resident:
    stop = StepDown(STOPPED, start, ((device, Room(memory, units)),))
    return Resident(model, idle, rate, had, start, (stop,), priority)


def with_sleep(model: str, *, weights: int = 4, **more: float) -> Resident:
    """A model that may sleep on one GiB of four, its weights in host memory."""
    base = resident(model, units=0, device="gpu", **more)  # type: ignore[arg-type]
    sleep = StepDown(1, 2.0, (("gpu", Room(3)), (HOST, Room(-weights))))
    return dataclasses.replace(base, steps=(sleep, *base.steps))


def asleep(model: str, *, weights: int = 4, rate: float = 0.01) -> Resident:
    stop = StepDown(STOPPED, 18.0, (("gpu", Room(1)), (HOST, Room(weights))))
    return Resident(model, 60.0, rate, math.inf, 20.0, (stop,))


def waiter(
    model: str = "new",
    *takes: tuple[str, Room],
    waited: float = 0.0,
    start: float = 20.0,
    priority: int = 0,
) -> Waiter:
    needs = tuple(RoomNeed((way,)) for way in takes or [("cpu", Room(4, 1))])
    return Waiter(model, needs, waited, start, priority)


def decided(
    waiters: list[Waiter], residents: list[Resident], free: dict[str, Room] | None = None
) -> RoomDecision:
    return readiness(waiters, residents, free or {}, least_idle_seconds=3.0)


def levels(found: RoomDecision) -> dict[str, dict[str, int]]:
    return {g.model: {model: step.level for model, step in g.steps} for g in found.granted}


def victims(
    residents: list[Resident], memory: int = 4, units: int = 1, free: Room = NO_ROOM
) -> set[str] | None:
    found = decided([waiter("new", ("cpu", Room(memory, units)))], residents, {"cpu": free})
    return set(levels(found)["new"]) if found.granted else None


def only_idle(idle: float) -> Resident:
    return resident(f"m{idle:.0f}", idle=idle, rate=expected_rate(0.0, idle))


@pytest.mark.parametrize(
    ("residents", "gone"),
    [
        ([resident("often", rate=0.1), resident("seldom", rate=0.001)], "seldom"),
        ([resident("slow", start=60), resident("quick", start=5)], "quick"),
        ([only_idle(30), only_idle(90), only_idle(60)], "m90"),
        ([resident("fresh", idle=2.9, rate=0.0), resident("long", idle=3.0)], "long"),
        ([resident("starts", had=0.0, rate=0.0), resident("serves", had=0.1)], "serves"),
    ],
    ids=[
        "asked for least",
        "starts quickest",
        "longest idle",
        "not just asked for",
        "not starting",
    ],
)
def test_of_equal_sizes_the_cheapest_to_miss_goes(residents: list[Resident], gone: str) -> None:
    assert victims(residents) == {gone}


def test_cores_count_and_of_several_devices_the_one_that_costs_least_waiting() -> None:
    two = [resident("a", rate=0.001), resident("b", rate=0.002)]
    assert victims(two, memory=1, units=2) == {"a", "b"}
    here = resident("here", device="gpu-0", rate=0.5)
    there = resident("there", device="gpu-1", rate=0.001)
    found = decided([waiter("new", ("gpu-0", Room(4, 1)), ("gpu-1", Room(4, 1)))], [here, there])
    assert levels(found) == {"new": {"there": STOPPED}}
    assert found.granted[0].need.device_id == "gpu-1"


@settings(max_examples=30)
@given(rates=st.lists(st.floats(0.001, 1), min_size=1, max_size=6), count=st.integers(1, 6))
def test_of_equal_sizes_no_other_choice_waits_less(rates: list[float], count: int) -> None:
    there = [resident(f"m{n}", rate=rate) for n, rate in enumerate(rates)]
    for free in (Room(0, 9), Room(99), NO_ROOM):  # too few bytes, too few cores, both
        needs = [waiter("new", ("cpu", Room(4 * count, count)))]
        for grant in decided(needs, there, {"cpu": free}).granted:
            assert grant.price == pytest.approx(grant.bound)


# -- sleep, within the host's memory ----------------------------------------------------------


def for_gpu(gib: int) -> list[Waiter]:
    return [waiter("new", ("gpu", Room(gib)))]


def test_who_makes_room_sleeps_if_that_frees_enough_and_its_host_has_the_memory() -> None:
    one = [with_sleep("a")]
    assert levels(decided(for_gpu(3), one, {HOST: Room(4)})) == {"new": {"a": 1}}
    assert levels(decided(for_gpu(4), one, {HOST: Room(4)})) == {"new": {"a": STOPPED}}
    assert levels(decided(for_gpu(3), one, {HOST: Room(3)})) == {"new": {"a": STOPPED}}


def on_gpu(model: str, rate: float, size: int, idle: float = 60.0) -> Resident:
    return resident(model, rate=rate, memory=size, idle=idle, units=0, device="gpu")


KINDS: tuple[Callable[[str, float, int], Resident], ...] = (
    on_gpu,
    lambda model, rate, size: on_gpu(model, rate, size, idle=0.0),
    lambda model, rate, size: with_sleep(model, rate=rate, memory=3 + size),
    lambda model, rate, _: asleep(model, rate=rate),
)
MODELS = st.tuples(st.sampled_from(KINDS), st.floats(0.001, 1), st.integers(1, 6))


@settings(max_examples=100)
@given(models=st.lists(MODELS, max_size=4), sizes=st.tuples(*[st.integers(0, 9)] * 3))
def test_steps_suffice_none_is_needless_and_no_choice_costs_less_than_the_bound(
    models: list[tuple[Callable[..., Resident], float, int]], sizes: tuple[int, int, int]
) -> None:
    wanted, free, host = sizes
    there = [make(f"m{n}", rate, size) for n, (make, rate, size) in enumerate(models)]
    ways, prices = [(None, *r.steps) if r.idle_seconds else (None,) for r in there], {}
    for steps in itertools.product(*ways):
        taken = [(r, step) for r, step in zip(there, steps, strict=True) if step]
        freed = [sum(s.on(place).memory_bytes for _, s in taken) for place in ("gpu", HOST)]
        if free + freed[0] >= wanted and host + freed[1] >= 0:
            price = math.fsum(r.price(step) for r, step in taken)
            prices[frozenset((r.model, step.level) for r, step in taken)] = price
    found = decided(for_gpu(wanted), there, {"gpu": Room(free), HOST: Room(host)}).granted
    assert len(found) == bool(prices)
    for grant in found:
        chosen = frozenset((model, step.level) for model, step in grant.steps)
        assert grant.price == pytest.approx(prices[chosen])
        assert grant.bound <= min(prices.values()) * (1 + 1e-9)
        assert not any(chosen - {one} in prices for one in chosen)


@pytest.mark.parametrize(
    ("takes", "host", "fits"),
    [
        (NO_ROOM, Room(-1), True),
        (Room(-5), Room(-6), True),  # it gives back
        (Room(1), Room(9, -2), True),  # of cores there are too few, and it takes none
        (Room(0, 1), Room(-1, 1), True),
        (Room(1), NO_ROOM, False),
        (Room(0, 1), Room(9, 0), False),
    ],
)
def test_a_place_that_is_overdrawn_stops_only_who_takes_some(
    takes: Room, host: Room, fits: bool
) -> None:
    need = RoomNeed((("gpu", Room(1)), (HOST, takes)))
    found = decided([Waiter("new", (need,), 0.0, 20.0)], [], {"gpu": Room(9), HOST: host})
    assert bool(found.granted) == fits


# -- in turns ---------------------------------------------------------------------------------


def busy(model: str, had: float, **more: float) -> Resident:
    return resident(model, idle=0.0, rate=5.0, had=had, **more)  # type: ignore[arg-type]


def test_a_turn_has_bounds_and_idle_models_step_down_first() -> None:
    quick = [busy("a", MIN_TURN_SECONDS - 0.1, start=0.1)]
    assert not decided([waiter(waited=99.0, start=0.1)], quick).granted
    slow = [busy("a", MAX_TURN_SECONDS, start=600.0)]
    assert decided([waiter(waited=MAX_TURN_SECONDS, start=600.0)], slow).granted
    both = [busy("a", 99.0), resident("b", rate=400.0)]
    assert levels(decided([waiter(waited=99.0)], both)) == {"new": {"b": STOPPED}}


def test_who_waits_longest_comes_first_and_each_gets_room_of_its_own() -> None:
    waiters = [waiter("late", waited=1.0), waiter("early", waited=5.0), waiter("last", waited=0.5)]
    found = decided(waiters, [resident("a"), resident("b", rate=0.5)])
    assert levels(found) == {"early": {"a": STOPPED}, "late": {"b": STOPPED}}
    assert found.waiting.keys() == {"last"}


def test_who_has_waited_for_a_turn_is_not_passed_by_smaller_ones() -> None:
    big, small = waiter("big", ("cpu", Room(8, 2))), waiter("small", waited=1.0)
    there = [busy("a", 5.0), resident("b")]
    waits = {
        w: decided([dataclasses.replace(big, waited_seconds=w), small], there) for w in (9, 90)
    }
    assert levels(waits[9]) == {"small": {"b": STOPPED}}
    assert levels(waits[90]) == {}
    assert "longer" in waits[90].waiting["small"]
    never = [resident("b")]  # not even all of it would be enough for the big one
    big = dataclasses.replace(big, waited_seconds=90.0)
    assert levels(decided([big, small], never)) == {"small": {"b": STOPPED}}


def test_who_may_not_take_a_place_keeps_it_from_nobody() -> None:
    there = [resident("a", idle=0.5, priority=5, start=2.0)]
    low, high = waiter("low", waited=100.0), waiter("high", waited=60.0, priority=5)
    found = decided([low, high], there)
    assert levels(found) == {"high": {"a": STOPPED}}
    assert "not free enough" in found.waiting["low"]


def test_who_could_not_help_does_not_lengthen_the_turn_that_is_told() -> None:
    elsewhere = busy("slow", 5.0, device="gpu", start=600.0)  # type: ignore[arg-type]
    found = decided([waiter(start=1.0)], [busy("a", 5.0, start=6.0), elsewhere])
    assert "up to 14 s" in found.waiting["new"]


def test_a_gap_is_a_surprise_for_a_higher_rate_and_waiting_within_the_slo_counts_little() -> None:
    assert [counted_seconds(wait, 5.0) for wait in (4.0, 5.0, 7.0)] == [0.04, 0.05, 2.05]
    assert [expected_rate(0.5, gap) for gap in (0.0, 1.0, 100.0)] == [0.5, 0.5, 0.01]
    assert expected_rate(0.0, 100.0) == 0.01


def test_popularity_fades_and_reads_as_a_rate() -> None:
    known = Popularity()
    for second in range(0, 7200, 10):
        known = known.with_requests(1, float(second), 900.0)
    assert known.req_per_s(7200.0, 900.0) == pytest.approx(0.1, rel=0.05)
    assert known.req_per_s(8100.0, 900.0) == pytest.approx(0.05, rel=0.05)
