"""Each rule of the definitions and each step of the search holds in a small example."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.profile.points import LimitedBy
from partitiond.profiler.search import (
    NextTrial,
    Purpose,
    SearchDone,
    SearchLimits,
    Visit,
    anchors,
    best_rate,
    combine,
    curve,
    propose,
)
from partitiond.profiler.search.anchors import roundest
from partitiond.profiler.search.model import believed, fit
from partitiond.profiler.search.rates import Rate
from tests.profiler.searching import Engine, flattening, saturating, simulate

FREE = SearchLimits(max_batch=512)


def visit(
    batch: int, rate: float, width: float = 1.0, purpose: Purpose = Purpose.UP, **more: bool
) -> Visit:
    return Visit(batch, purpose, rate, width, seconds=12.0, e2el_seconds=0.1, **more)


def proposed(visits: list[Visit], limits: SearchLimits) -> NextTrial:
    proposal = propose(visits, limits, 0.0)
    assert isinstance(proposal, NextTrial)
    return proposal


# Anchors


@pytest.mark.parametrize(
    ("max_batch", "expected"),
    [(1, (1,)), (3, (1, 3)), (64, (1, 4, 16, 64)), (512, (1, 2, 8, 32, 128, 512))],
)
def test_without_a_prior_every_fourth_batch_is_an_anchor(
    max_batch: int, expected: tuple[int, ...]
) -> None:
    assert anchors(SearchLimits(max_batch=max_batch)) == expected


def test_a_prior_puts_the_anchors_around_its_knee_and_up_to_the_largest_batch() -> None:
    prior = tuple((b, min(b, 24.0)) for b in (1, 8, 24, 64))
    assert anchors(SearchLimits(max_batch=512, prior=prior)) == (6, 24, 96, 512)


@pytest.mark.parametrize(
    "prior", [(), ((600, 5.0),), ((0, 5.0),), ((4, math.nan),), ((4, -1.0), (8, 0.0))]
)
def test_a_prior_that_says_nothing_is_no_prior(prior: tuple[tuple[int, float], ...]) -> None:
    assert anchors(SearchLimits(max_batch=512, prior=prior)) == anchors(FREE)


@pytest.mark.parametrize(
    ("batch", "low", "high", "expected"),
    [(31, 1, 512, 32), (47, 1, 512, 48), (5, 5, 5, 5), (100, 1, 512, 96), (31, 33, 40, 33)],
)
def test_batches_are_rounded_to_what_engines_pad_to(
    batch: float, low: int, high: int, expected: int
) -> None:
    assert roundest(batch, low, high) == expected


def test_the_first_pass_goes_up_with_loose_windows() -> None:
    first = proposed([], FREE)
    assert (first.batch, first.purpose) == (1, Purpose.UP)
    assert first.half_width_share == pytest.approx(0.10)
    assert first.max_window_seconds <= 2 * first.min_window_seconds
    found = simulate(Engine(flattening(8)), FREE)
    assert found.of(Purpose.UP) == list(anchors(FREE))


# Looking


def test_below_the_anchors_while_the_smallest_may_be_beyond_the_knee() -> None:
    prior = ((64, 1.0), (256, 4.0))
    limits = SearchLimits(max_batch=256, prior=prior)
    visits = [visit(b, 100) for b in anchors(limits)]
    assert proposed(visits, limits).batch < min(anchors(limits))


def test_the_gap_below_the_knee_is_looked_into_where_the_fit_expects_it() -> None:
    rate = saturating(1.0, 0.05)
    visits = [visit(b, rate(b), 0.01) for b in anchors(FREE)]
    look = proposed(visits, FREE)
    assert look.purpose is Purpose.REFINE
    assert 128 < look.batch < 512


def test_a_better_batch_hidden_between_anchors_is_found() -> None:
    def peak(b: int) -> float:
        return 100 * (0.9 + 0.3 * math.exp(-((math.log2(b) - 4) ** 2))) * min(1, b / 4)

    found = simulate(Engine(peak), SearchLimits(max_batch=256))
    assert best_rate(found.visits) == pytest.approx(max(map(peak, range(1, 257))), rel=0.05)


def test_a_dip_at_an_anchor_does_not_hide_the_knee_below_it() -> None:
    def dipped(b: int) -> float:
        return 100 * min(1, b / 8) * (0.86 if 24 <= b <= 44 else 1)

    found = simulate(Engine(dipped), FREE)
    assert found.knee in {8, 9, 10}


def test_steps_of_padded_batches_do_not_fool_it() -> None:
    def padded(b: int) -> float:
        return b / (4 + 8 * math.ceil(b / 8))

    best = max(padded(b) for b in range(1, 257))
    found = simulate(Engine(padded), SearchLimits(max_batch=256))
    assert padded(found.knee) >= 0.95 * best * 0.999


# Second visits and X*


def test_second_visits_come_in_the_opposite_order_of_the_first() -> None:
    found = simulate(Engine(flattening(40)), FREE)
    order = [v.batch for v in found.visits]
    downs = found.of(Purpose.DOWN)[:3]
    firsts = [order.index(b) for b in downs]
    assert firsts == sorted(firsts, reverse=True)


def test_far_from_the_knee_one_glance_is_enough() -> None:
    found = simulate(Engine(flattening(200)), FREE)
    assert found.counts[1] == 1
    assert found.counts[8] == 1


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
    assert best_rate(visits) is None
    assert best_rate([*visits, visit(4, 101, 9.0, Purpose.CONFIRM)]) == 101


def test_a_disturbed_fresh_window_does_not_lower_the_best_rate() -> None:
    visits = [
        visit(4, 100),
        visit(4, 70, purpose=Purpose.CONFIRM),
        visit(4, 99, purpose=Purpose.AGAIN),
    ]
    assert best_rate(visits) == 99


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
    assert not limited & {r.batch for r in curve(found.visits)}
    assert max(set(found.counts) - limited) >= 18, "the edge is found closely"


def test_a_batch_the_engine_died_of_is_beyond_the_largest() -> None:
    found = simulate(Engine(flattening(16), dies_at=100), FREE)
    assert found.done.capped_by is LimitedBy.MEMORY
    assert 15 <= found.knee <= 20
    assert sum(v.died for v in found.visits) <= 3


def test_an_engine_that_holds_nothing_ends_the_search() -> None:
    found = simulate(Engine(flattening(16), dies_at=1), FREE)
    assert found.done.capped_by is LimitedBy.MEMORY
    assert curve(found.visits) == ()


def test_no_batch_is_proposed_when_none_is_allowed() -> None:
    assert isinstance(propose([], SearchLimits(max_batch=0), 0.0), SearchDone)


def test_a_failure_below_a_batch_that_ran_leaves_out_that_batch_only() -> None:
    visits = [visit(b, float(r)) for b, r in ((1, 10), (2, 20), (8, 80), (32, 99), (128, 100))]
    visits += [visit(512, 100.0), visit(8, 79.0, kv_limited=True)]
    found = simulate(Engine(flattening(34, top=100)), FREE, visits)
    assert 8 not in {r.batch for r in curve(found.visits)}
    assert 30 <= found.knee <= 42


# Rates taken together


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e3)), min_size=1, max_size=2))
def test_two_windows_lie_around_their_mean_and_show_their_spread(
    windows: list[tuple[float, float]],
) -> None:
    rates, widths = [w[0] for w in windows], [w[1] for w in windows]
    mean, width = combine(rates, widths)
    assert min(rates) * (1 - 1e-9) <= mean <= max(rates) * (1 + 1e-9)
    assert width >= (max(rates) - min(rates)) / 2


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e3)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_windows_does_not_matter(
    windows: list[tuple[float, float]],
    draw: random.Random,
) -> None:
    shuffled = list(windows)
    draw.shuffle(shuffled)
    mean, width = combine([w[0] for w in windows], [w[1] for w in windows])
    again, wide = combine([w[0] for w in shuffled], [w[1] for w in shuffled])
    assert (again, wide) == pytest.approx((mean, width), rel=1e-9)


def test_a_long_window_weighs_more_than_a_glance() -> None:
    mean, _ = combine([100.0, 110.0], [1.0, 10.0])
    assert 100.1 < mean < 101


def test_a_half_width_that_is_small_by_luck_does_not_decide_alone() -> None:
    mean, width = combine([100.0, 102.0], [0.01, 1.0])
    assert 100.4 < mean < 101
    assert width >= 1.0, "half of what the windows are apart"


def test_windows_that_scatter_more_than_they_say_widen_the_interval() -> None:
    calm = combine([100.0, 100.5, 99.5, 100.0], [2.0] * 4)[1]
    wild = combine([100.0, 103.0, 97.0, 100.0], [2.0] * 4)[1]
    assert wild > 1.3 * calm


def test_two_windows_are_less_sure_than_each_alone_would_have_them() -> None:
    assert combine([100.0, 100.0], [2.0, 2.0])[1] > 1.2 * 2 / math.sqrt(2)
    assert combine([100.0, 100.0], [0.1, 0.1])[1] <= 0.11, "but steady ones are believed"


def test_leaving_a_window_out_is_a_doubt_of_its_own() -> None:
    assert combine([100.0, 60.0, 100.0], [2.0] * 3)[1] > combine([100.0, 100.0], [2.0] * 2)[1]


def test_one_disturbed_window_of_three_is_left_out() -> None:
    assert combine([100.0, 60.0, 101.0], [2.0, 2.0, 2.0])[0] == pytest.approx(100.5)


def test_an_interval_that_cannot_be_told_counts_as_the_whole_rate() -> None:
    assert combine([100.0], [math.inf]) == (100.0, 100.0)


# The fitted curve


@pytest.mark.parametrize("half", [2.0, 10.0, 100.0])
def test_the_fit_finds_a_saturating_curve_and_where_it_crosses(half: float) -> None:
    rates = [Rate(b, 100 / (1 + half / b), 0.5, 1, disagreeing=False) for b in (1, 8, 64, 512)]
    found = fit(rates)
    assert found is not None
    assert found.rate(30) == pytest.approx(100 / (1 + half / 30), rel=0.08)
    assert found.rate(found.crossing(60.0)) == pytest.approx(60.0, rel=1e-6)
    assert found.crossing(2 * found.top) == math.inf


def test_a_noisy_figure_is_drawn_to_the_fit_and_a_sharp_one_is_not() -> None:
    true = [(1, 10.0), (4, 40.0), (16, 100.0), (64, 100.0), (256, 100.0)]
    sharp = [Rate(b, x, 0.1, 1, disagreeing=False) for b, x in true]
    noisy = [*sharp[:3], Rate(64, 125.0, 40.0, 1, disagreeing=False), sharp[4]]
    drawn = {p.batch: p.output_tokens_per_s for p in believed(noisy, fit(noisy))}
    assert abs(drawn[64] - 100) < 12
    assert drawn[256] == pytest.approx(100, abs=1)


def test_no_fit_to_a_single_batch() -> None:
    assert fit([Rate(1, 10.0, 1.0, 1, disagreeing=False)]) is None


def test_a_slow_fresh_window_of_one_batch_does_not_undo_what_another_leaves_no_doubt_of() -> None:
    # The host got busy as batch 40 was measured afresh; batch 12 was visited twice, before.
    visits = [
        visit(12, 126, 3.0),
        visit(40, 130, 20.0),
        visit(12, 125, 3.0, Purpose.DOWN),
        visit(40, 81, 8.0, Purpose.CONFIRM),
    ]
    best = best_rate(visits)
    assert best is not None
    assert 120 < best < 126
