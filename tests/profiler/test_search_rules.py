"""Each rule of the definitions and each step of the search holds in a small example."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.profile.points import LimitedBy
from partitiond.profiler import search
from partitiond.profiler.search import Prior, Purpose, SearchDone, SearchLimits, Visit, propose
from partitiond.profiler.search.anchors import roundest
from tests.profiler.searching import Engine, flattening, saturating, simulate

FREE = SearchLimits(max_batch=512)


def visit(
    batch: int, rate: float, width: float = 1.0, purpose: Purpose = Purpose.UP, **more: bool
) -> Visit:
    return Visit(batch, purpose, rate, width, seconds=12.0, e2el_seconds=0.1, **more)


def proposed(visits: list[Visit], limits: SearchLimits) -> search.NextTrial:
    proposal = propose(visits, limits, 0.0)
    assert isinstance(proposal, search.NextTrial)
    return proposal


# Anchors


UNKNOWN = (1, 2, 8, 32, 128, 512)


def test_the_search_begins_at_anchors() -> None:
    knee = tuple((b, min(b, 24.0)) for b in (1, 8, 24, 64))
    asked: tuple[tuple[int, Prior | None, tuple[int, ...]], ...] = (
        (1, None, (1,)),  # every fourth one without a prior
        (3, None, (1, 3)),
        (64, None, (1, 4, 16, 64)),
        (512, None, UNKNOWN),
        # Around the knee of a prior, and up to the largest batch.
        (512, knee, (6, 24, 96, 512)),
        (512, (), UNKNOWN),  # it says nothing
        (512, ((600, 5.0),), UNKNOWN),
        (512, ((0, 5.0),), UNKNOWN),
        (512, ((4, math.nan),), UNKNOWN),
        (512, ((4, -1.0), (8, 0.0)), UNKNOWN),
    )
    for max_batch, prior, expected in asked:
        assert search.anchors(SearchLimits(max_batch=max_batch, prior=prior)) == expected, prior


def test_batches_are_rounded_to_what_engines_pad_to() -> None:
    asked = (31, 1, 512, 32), (47, 1, 512, 48), (5, 5, 5, 5), (100, 1, 512, 96), (31, 33, 40, 33)
    for batch, low, high, expected in asked:
        assert roundest(batch, low, high) == expected


def test_the_first_pass_goes_up_with_loose_windows() -> None:
    first = proposed([], FREE)
    assert (first.batch, first.purpose) == (1, Purpose.UP)
    assert first.half_width_share == pytest.approx(0.10)
    assert first.max_window_seconds <= 2 * first.min_window_seconds
    found = simulate(Engine(flattening(8)), FREE)
    assert found.of(Purpose.UP) == list(search.anchors(FREE))


# Looking


def test_below_the_anchors_while_the_smallest_may_be_beyond_the_knee() -> None:
    prior = ((64, 1.0), (256, 4.0))
    limits = SearchLimits(max_batch=256, prior=prior)
    visits = [visit(b, 100) for b in search.anchors(limits)]
    assert proposed(visits, limits).batch < min(search.anchors(limits))


def test_the_gap_below_the_knee_is_looked_into() -> None:
    rate = saturating(1.0, 0.05)
    visits = [visit(b, rate(b), 0.01) for b in search.anchors(FREE)]
    look = proposed(visits, FREE)
    assert look.purpose is Purpose.REFINE
    assert 128 < look.batch < 512


def peak(b: int) -> float:
    """A better batch is hidden between search.anchors."""
    return 100 * (0.9 + 0.3 * math.exp(-((math.log2(b) - 4) ** 2))) * min(1, b / 4)


def dipped(b: int) -> float:
    """A dip at an anchor hides the knee below it."""
    return 100 * min(1, b / 8) * (0.86 if 24 <= b <= 44 else 1)


def padded(b: int) -> float:
    """Batches are padded."""
    return b / (4 + 8 * math.ceil(b / 8))


def test_bumps_dips_and_steps_do_not_fool_it() -> None:
    for rate in (peak, dipped, padded):
        best = max(map(rate, range(1, 257)))
        found = simulate(Engine(rate), SearchLimits(max_batch=256))
        assert search.best_rate(found.visits) == pytest.approx(best, rel=0.05)
        assert rate(found.knee) >= 0.95 * best * 0.999
        assert rate is not dipped or found.knee in {8, 9, 10}


# Second visits and X*


def test_second_visits_come_in_the_opposite_order_of_the_first() -> None:
    """Far from the knee one glance is enough."""
    found = simulate(Engine(flattening(40)), FREE)
    order = [v.batch for v in found.visits]
    firsts = [order.index(b) for b in found.of(Purpose.DOWN)[:3]]
    assert firsts == sorted(firsts, reverse=True)
    far = simulate(Engine(flattening(200)), FREE)
    assert (far.counts[1], far.counts[8]) == (1, 1)


def test_the_best_batch_is_measured_in_a_fresh_longer_window() -> None:
    found = simulate(Engine(flattening(8), noise=0.01, seed=3), FREE)
    assert 1 <= len(set(found.of(Purpose.CONFIRM))) <= 2
    visits = [visit(b, r) for b, r in ((1, 50), (2, 98), (4, 100))]
    visits += [visit(b, r, purpose=Purpose.DOWN) for b, r in ((1, 50), (2, 98))]
    fresh = proposed([*visits, visit(3, 99), visit(3, 99)], SearchLimits(max_batch=4))
    assert (fresh.batch, fresh.purpose) == (4, Purpose.CONFIRM)
    assert fresh.min_window_seconds == 20


def test_the_best_rate_is_what_fresh_windows_say_not_the_lucky_first() -> None:
    visits = [visit(4, 110), visit(8, 100)]
    assert search.best_rate(visits) is None
    assert search.best_rate([*visits, visit(4, 101, 9.0, Purpose.CONFIRM)]) == 101
    fresh = [visit(4, 70, purpose=Purpose.CONFIRM), visit(4, 99, purpose=Purpose.AGAIN)]
    assert search.best_rate([visit(4, 100), *fresh]) == 99  # one was disturbed


def test_visits_that_disagree_are_measured_again() -> None:
    limits = SearchLimits(max_batch=4)
    visits = [visit(b, r) for b, r in ((1, 50), (4, 100), (3, 99), (2, 80))]
    visits += [visit(b, r, purpose=Purpose.DOWN) for b, r in ((2, 60), (3, 99))]
    visits.append(visit(4, 100, purpose=Purpose.CONFIRM))
    again = proposed(visits, limits)
    assert (again.batch, again.purpose) == (2, Purpose.AGAIN)
    assert isinstance(
        propose([*visits, visit(2, 61, purpose=Purpose.AGAIN)], limits, 0.0), SearchDone
    )


# What the engine does not hold


def test_a_batch_the_kv_cache_limits_cannot_be_the_knee_and_ends_the_growing() -> None:
    found = simulate(Engine(saturating(1, 0.001), kv_batch=20), FREE)
    assert found.done.capped_by is LimitedBy.MEMORY
    assert not found.claims_a_knee
    limited = {v.batch for v in found.visits if v.kv_limited}
    assert all(found.counts[b] == 1 for b in limited), "what cannot be the knee is not repeated"
    assert not limited & {r.batch for r in search.curve(found.visits)}
    assert max(set(found.counts) - limited) >= 18, "the edge is found closely"


@pytest.mark.parametrize(("dies_at", "knees"), [(100, range(15, 21)), (1, None)])
def test_a_batch_the_engine_died_of_is_beyond_the_largest(
    dies_at: int, knees: range | None
) -> None:
    found = simulate(Engine(flattening(16), dies_at=dies_at), FREE)
    assert found.done.capped_by is LimitedBy.MEMORY
    assert sum(v.died for v in found.visits) <= 3
    assert isinstance(propose([], SearchLimits(max_batch=0), 0.0), SearchDone)
    if knees is None:
        assert search.curve(found.visits) == ()
    else:
        assert found.knee in knees


def test_a_failure_below_a_batch_that_ran_leaves_out_that_batch_only() -> None:
    visits = [visit(b, float(r)) for b, r in ((1, 10), (2, 20), (8, 80), (32, 99), (128, 100))]
    visits += [visit(512, 100.0), visit(8, 79.0, kv_limited=True)]
    found = simulate(Engine(flattening(34, top=100)), FREE, visits)
    assert 8 not in {r.batch for r in search.curve(found.visits)}
    assert 30 <= found.knee <= 42


# Rates taken together


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e3)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_windows_lie_around_their_mean_in_any_order(
    windows: list[tuple[float, float]], draw: random.Random
) -> None:
    """And two of them show their spread; of more, one may be left out."""
    rates = [rate for rate, _ in windows]
    mean, width = search.combine(rates, [width for _, width in windows])
    assert min(rates) * (1 - 1e-9) <= mean <= max(rates) * (1 + 1e-9)
    assert len(windows) > 2 or width >= (max(rates) - min(rates)) / 2
    shuffled = draw.sample(windows, len(windows))
    assert search.combine([r for r, _ in shuffled], [w for _, w in shuffled]) == pytest.approx(
        (mean, width), rel=1e-9
    )


def test_windows_of_one_batch_are_taken_together() -> None:
    for rates, widths, means, half_widths in (
        ((100.0, 110.0), (1.0, 10.0), (100.1, 101), (5, 99)),  # a long window weighs more
        # A half-width that is small by luck does not decide alone.
        ((100.0, 102.0), (0.01, 1.0), (100.4, 101), (1.0, 99)),
        # Two windows are less sure than each alone would have them; steady ones are believed.
        ((100.0, 100.0), (2.0, 2.0), (100, 100), (1.2 * 2 / math.sqrt(2), 99)),
        ((100.0, 100.0), (0.1, 0.1), (100, 100), (0, 0.11)),
        ((100.0, 60.0, 101.0), (2.0, 2.0, 2.0), (100.499, 100.501), (0, 99)),  # one is left out
        ((100.0,), (math.inf,), (100.0, 100.0), (100.0, 100.0)),  # nothing is told: the whole rate
    ):
        mean, width = search.combine(rates, widths)
        assert means[0] <= mean <= means[1]
        assert half_widths[0] <= width <= half_widths[1]


def test_windows_that_scatter_or_are_left_out_widen_the_interval() -> None:
    calm = search.combine([100.0, 100.5, 99.5, 100.0], [2.0] * 4)[1]
    wild = search.combine([100.0, 103.0, 97.0, 100.0], [2.0] * 4)[1]
    assert wild > 1.3 * calm
    assert (
        search.combine([100.0, 60.0, 100.0], [2.0] * 3)[1]
        > search.combine([100.0, 100.0], [2.0] * 2)[1]
    )


def test_a_slow_fresh_window_of_one_batch_does_not_undo_what_another_leaves_no_doubt_of() -> None:
    # The host got busy as batch 40 was measured afresh; batch 12 was visited twice, before.
    visits = [visit(12, 126, 3.0), visit(40, 130, 20.0), visit(12, 125, 3.0, Purpose.DOWN)]
    visits.append(visit(40, 81, 8.0, Purpose.CONFIRM))
    best = search.best_rate(visits)
    assert best is not None
    assert 120 < best < 126
