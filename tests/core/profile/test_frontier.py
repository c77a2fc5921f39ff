"""The frontier and the knee follow their definitions."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.profile.frontier import (
    dominates,
    doubling_gains,
    find_knee,
    frontier,
    last_doubling_growth,
    still_grows,
)
from partitiond.core.profile.points import Latency, LimitedBy, OperatingPoint
from partitiond.core.units import Bytes


def latency(p95: float) -> Latency:
    return Latency(p95, p95, p95, p95)


def point(
    batch: int,
    rate: float,
    *,
    half_width: float = 0.0,
    footprint: int | None = None,
    tpot: float | None = None,
    kv_limited: bool = False,
) -> OperatingPoint:
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=rate,
        half_width=half_width,
        req_per_s=rate / 32,
        ttft=latency(0.1),
        tpot=latency(tpot if tpot is not None else batch / rate),
        itl=latency(0.1),
        e2el=latency(1.0),
        kv_tokens=batch * 100,
        footprint_bytes=Bytes(footprint if footprint is not None else 1000 + batch),
        kv_limited=kv_limited,
    )


def saturating(batches: list[int], base: float = 1.0, slope: float = 0.02) -> list[OperatingPoint]:
    return [point(b, b / (base + slope * b)) for b in batches]


points_strategy = st.lists(
    st.builds(
        lambda rate, half_width, footprint, tpot, limited: (
            rate,
            half_width,
            footprint,
            tpot,
            limited,
        ),
        st.floats(1, 1e5),
        st.floats(0, 1e3),
        st.integers(1, 10**12),
        st.floats(1e-4, 10),
        st.booleans(),
    ),
    min_size=1,
    max_size=10,
).map(
    lambda rows: [
        point(2**i, rate, half_width=hw, footprint=size, tpot=tpot, kv_limited=limited)
        for i, (rate, hw, size, tpot, limited) in enumerate(rows)
    ]
)


@given(points_strategy)
def test_the_frontier_holds_exactly_the_points_nothing_beats(
    points: list[OperatingPoint],
) -> None:
    kept = frontier(points)
    assert kept
    for one, other in itertools.permutations(kept, 2):
        assert not dominates(one, other)
    for left_out in (p for p in points if p not in kept):
        assert any(dominates(one, left_out) for one in kept)


@given(points_strategy)
def test_the_frontier_does_not_depend_on_the_order(points: list[OperatingPoint]) -> None:
    assert frontier(points) == frontier(list(reversed(points)))


def test_equal_points_do_not_beat_each_other() -> None:
    one = point(4, 100, footprint=10, tpot=0.1)
    same = dataclasses.replace(one, batch=5)
    assert frontier([one, same]) == (one, same)


@given(points_strategy, st.floats(0.01, 0.5))
def test_the_knee_is_inside_its_range_and_among_the_usable_batches(
    points: list[OperatingPoint], tolerance: float
) -> None:
    knee = find_knee(points, tolerance)
    usable = [p for p in points if not p.kv_limited]
    assert (knee.batch is None) == (knee.limited_by is not None)
    if knee.batch is not None:
        assert knee.low is not None
        assert knee.high is not None
        assert knee.low <= knee.batch <= knee.high <= knee.largest_batch
        assert knee.batch in {p.batch for p in usable}
    if usable:
        assert knee.largest_batch == max(p.batch for p in usable)


@given(points_strategy, st.floats(0.01, 0.5))
def test_no_smaller_batch_reaches_the_rate_of_the_knee(
    points: list[OperatingPoint], tolerance: float
) -> None:
    knee = find_knee(points, tolerance)
    if knee.batch is None:
        return
    wanted = (1 - tolerance) * knee.best_output_tokens_per_s
    usable = {p.batch: p for p in points if not p.kv_limited}
    assert usable[knee.batch].output_tokens_per_s >= wanted
    assert all(p.output_tokens_per_s < wanted for b, p in usable.items() if b < knee.batch)


@given(points_strategy)
def test_wider_intervals_never_narrow_the_range(points: list[OperatingPoint]) -> None:
    knee = find_knee(points)
    wider = find_knee([dataclasses.replace(p, half_width=2 * p.half_width) for p in points])
    if knee.batch is not None:
        assert wider.low is not None
        assert wider.high is not None
        assert knee.low is not None
        assert knee.high is not None
        assert wider.low <= knee.low
        assert wider.high >= knee.high


def test_the_knee_of_a_curve_that_flattens() -> None:
    points = [point(1, 50), point(2, 90), point(4, 96), point(8, 100), point(16, 99)]
    knee = find_knee(points)
    assert (knee.batch, knee.best_output_tokens_per_s, knee.limited_by) == (4, 100, None)


def test_the_range_of_the_knee_follows_from_the_intervals() -> None:
    points = [point(1, 50, half_width=5), *(point(b, 96 + b / 8, half_width=5) for b in (2, 4, 8))]
    knee = find_knee(points)
    assert (knee.low, knee.batch, knee.high) == (2, 2, 8)


@pytest.mark.parametrize("reason", list(LimitedBy))
def test_no_knee_while_throughput_still_grows(reason: LimitedBy) -> None:
    knee = find_knee(saturating([1, 2, 4, 8]), capped_by=reason)
    assert (knee.batch, knee.low, knee.high) == (None, None, None)
    assert (knee.limited_by, knee.largest_batch) == (reason, 8)


def test_a_curve_that_rises_at_the_end_but_below_its_best_has_a_knee() -> None:
    """Steps and dips: the last doubling gains, yet a smaller batch gave more than the largest."""
    points = [point(8, 80), point(16, 100), point(26, 70), point(52, 85)]
    assert last_doubling_growth(points) > 0.05
    assert not still_grows(points)
    knee = find_knee(points)
    assert (knee.batch, knee.best_output_tokens_per_s) == (16, 100)


@given(points_strategy, st.floats(0.01, 0.5))
def test_what_still_grows_ends_near_its_best_and_above_everything_a_doubling_below(
    points: list[OperatingPoint], tolerance: float
) -> None:
    if not still_grows(points, tolerance):
        return
    last = max(points, key=lambda p: p.batch)
    assert last.output_tokens_per_s >= (1 - tolerance) * max(p.output_tokens_per_s for p in points)
    assert all(
        last.output_tokens_per_s > (1 + tolerance) * p.output_tokens_per_s
        for p in points
        if 2 * p.batch <= last.batch
    )


@given(st.floats(0.01, 1), st.floats(0.0001, 0.5), st.integers(1, 9))
def test_on_a_rising_curve_growth_is_that_of_the_last_doubling(
    base: float, slope: float, doublings: int
) -> None:
    points = saturating([2**i for i in range(doublings + 1)], base, slope)
    assert still_grows(points) == (last_doubling_growth(points) > 0.05)


def test_growth_that_the_kv_cache_ended_is_limited_by_memory() -> None:
    points = [*saturating([1, 2, 4, 8]), point(16, 200, kv_limited=True)]
    knee = find_knee(points, capped_by=LimitedBy.TIME)
    assert (knee.limited_by, knee.largest_batch) == (LimitedBy.MEMORY, 8)


def test_a_fresh_best_rate_replaces_the_lucky_one() -> None:
    points = [point(8, 96), point(16, 98), point(32, 104), point(64, 100), point(128, 100)]
    assert find_knee(points).batch == 32
    assert find_knee(points, best_output_tokens_per_s=100).batch == 8


def test_a_fresh_best_rate_that_nothing_reaches_leaves_the_best_batch() -> None:
    points = [point(8, 96), point(16, 100), point(32, 98)]
    knee = find_knee(points, best_output_tokens_per_s=150)
    assert (knee.batch, knee.high) == (16, 32), "and its range is open upwards"


def test_growth_is_per_doubling_where_the_last_gap_is_wider() -> None:
    assert last_doubling_growth([point(4, 100), point(16, 121)]) == pytest.approx(0.1)


def test_a_single_point_may_still_grow() -> None:
    knee = find_knee([point(1, 50)])
    assert (knee.batch, knee.limited_by, knee.largest_batch) == (None, LimitedBy.CAP, 1)


def test_doubling_gains_are_given_where_both_batches_were_measured() -> None:
    gains = doubling_gains([point(1, 50), point(2, 90), point(3, 95), point(6, 95)])
    assert gains == {1: pytest.approx(1.8), 3: pytest.approx(1.0)}


def test_a_knee_needs_a_point() -> None:
    with pytest.raises(ValueError, match="at least one"):
        find_knee([])
