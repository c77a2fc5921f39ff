"""The frontier and the knee follow their definitions."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.profile import knee as curve
from partitiond.core.profile.knee import find_knee, frontier, last_doubling_growth, still_grows
from partitiond.core.profile.points import Latency, LimitedBy, OperatingPoint
from partitiond.core.units import Bytes


def point(
    batch: int,
    rate: float,
    half_width: float = 0.0,
    footprint: int | None = None,
    tpot: float | None = None,
    *,
    kv_limited: bool = False,
) -> OperatingPoint:
    ttft, e2el = Latency(0.1, 0.1, 0.1, 0.1), Latency(1.0, 1.0, 1.0, 1.0)
    each = batch / rate if tpot is None else tpot
    gap = Latency(each, each, each, each)
    size = Bytes(1000 + batch if footprint is None else footprint)
    return OperatingPoint(
        batch, rate, half_width, rate / 32, ttft, gap, ttft, e2el, batch * 100, size,
        kv_limited=kv_limited,
    )  # fmt: skip


def points(*rates: tuple[int, float], half_width: float = 0.0) -> list[OperatingPoint]:
    return [point(batch, rate, half_width) for batch, rate in rates]


def saturating(batches: list[int], base: float = 1.0, slope: float = 0.02) -> list[OperatingPoint]:
    return [point(b, b / (base + slope * b)) for b in batches]


ROW = st.tuples(
    st.floats(1, 1e5), st.floats(0, 1e3), st.integers(1, 10**12), st.floats(1e-4, 10), st.booleans()
)
MEASURED = st.lists(ROW, min_size=1, max_size=10).map(
    lambda rows: [point(2**i, *row[:4], kv_limited=row[4]) for i, row in enumerate(rows)]
)
TOLERANCE = st.floats(0.01, 0.5)


@given(MEASURED)
def test_the_frontier_holds_exactly_the_points_nothing_beats(found: list[OperatingPoint]) -> None:
    kept = frontier(found)
    assert kept
    assert kept == frontier(list(reversed(found)))
    for one, other in itertools.permutations(kept, 2):
        assert not curve.dominates(one, other)
    for left_out in (p for p in found if p not in kept):
        assert any(curve.dominates(one, left_out) for one in kept)


def test_equal_points_do_not_beat_each_other() -> None:
    one = point(4, 100, footprint=10, tpot=0.1)
    same = dataclasses.replace(one, batch=5)
    assert frontier([one, same]) == (one, same)


@given(MEASURED, TOLERANCE)
def test_the_knee_is_the_smallest_usable_batch_that_reaches_the_best_rate(
    found: list[OperatingPoint], tolerance: float
) -> None:
    knee = find_knee(found, tolerance)
    usable = {p.batch: p.output_tokens_per_s for p in found if not p.kv_limited}
    assert (knee.batch is None) == (knee.limited_by is not None)
    if usable:
        assert knee.largest_batch == max(usable)
    if knee.batch is None:
        return
    assert knee.low is not None
    assert knee.high is not None
    assert knee.low <= knee.batch <= knee.high <= knee.largest_batch
    wanted = (1 - tolerance) * knee.best_output_tokens_per_s
    assert usable[knee.batch] >= wanted
    assert all(rate < wanted for batch, rate in usable.items() if batch < knee.batch)


@given(MEASURED)
def test_wider_intervals_never_narrow_the_range(found: list[OperatingPoint]) -> None:
    knee = find_knee(found)
    wider = find_knee([dataclasses.replace(p, half_width=2 * p.half_width) for p in found])
    if knee.low is not None and knee.high is not None:
        assert wider.low is not None
        assert wider.high is not None
        assert wider.low <= knee.low <= knee.high <= wider.high


@pytest.mark.parametrize(
    ("found", "best", "knee", "high"),
    [
        # Steps and dips: the last doubling gains, yet a smaller batch gave more than the largest.
        (points((8, 80), (16, 100), (26, 70), (52, 85)), None, 16, 16),
        # A fresh best rate replaces the lucky one; where nothing reaches it, the best batch is
        # left, and its range is open upwards.
        (points((8, 96), (16, 98), (32, 104), (64, 100), (128, 100)), None, 32, 32),
        (points((8, 96), (16, 98), (32, 104), (64, 100), (128, 100)), 100, 8, 8),
        (points((8, 96), (16, 100), (32, 98)), 150, 16, 32),
        ([point(1, 50, 5), *points((2, 96.25), (4, 96.5), (8, 97), half_width=5)], None, 2, 8),
    ],
)
def test_the_knee_of_a_curve_that_flattens(
    found: list[OperatingPoint], best: float | None, knee: int, high: int
) -> None:
    seen = find_knee(found, best_output_tokens_per_s=best)
    assert (seen.batch, seen.high, seen.limited_by) == (knee, high, None)


@pytest.mark.parametrize("reason", list(LimitedBy))
def test_no_knee_while_throughput_still_grows(reason: LimitedBy) -> None:
    knee = find_knee(saturating([1, 2, 4, 8]), capped_by=reason)
    assert (knee.batch, knee.low, knee.high) == (None, None, None)
    assert (knee.limited_by, knee.largest_batch) == (reason, 8)
    in_cache = [*saturating([1, 2, 4, 8]), point(16, 200, kv_limited=True)]
    knee = find_knee(in_cache, capped_by=reason)
    assert (knee.limited_by, knee.largest_batch) == (LimitedBy.MEMORY, 8)
    alone = find_knee(points((1, 50)))
    assert (alone.batch, alone.limited_by, alone.largest_batch) == (None, LimitedBy.CAP, 1)


@given(MEASURED, TOLERANCE)
def test_what_still_grows_ends_near_its_best_and_above_everything_a_doubling_below(
    found: list[OperatingPoint], tolerance: float
) -> None:
    if not still_grows(found, tolerance):
        return
    last = max(found, key=lambda p: p.batch)
    assert last.output_tokens_per_s >= (1 - tolerance) * max(p.output_tokens_per_s for p in found)
    assert all(
        last.output_tokens_per_s > (1 + tolerance) * p.output_tokens_per_s
        for p in found
        if 2 * p.batch <= last.batch
    )


@given(st.floats(0.01, 1), st.floats(0.0001, 0.5), st.integers(1, 9))
def test_on_a_rising_curve_growth_is_that_of_the_last_doubling(
    base: float, slope: float, doublings: int
) -> None:
    rising = saturating([2**i for i in range(doublings + 1)], base, slope)
    assert still_grows(rising) == (last_doubling_growth(rising) > 0.05)


def test_growth_is_per_doubling() -> None:
    assert last_doubling_growth(points((4, 100), (16, 121))) == pytest.approx(0.1)


def test_a_knee_needs_a_point() -> None:
    with pytest.raises(ValueError, match="at least one"):
        find_knee([])
