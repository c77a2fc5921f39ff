"""Intervals hold the truth about as often as claimed, for independent values and for others."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.results import intervals
from loadgen.results.statistics import percentile, summarise


def binomial_cdf(count: int, share: float, at: int) -> float:
    """P(B <= at), summed term by term."""
    return math.fsum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(at + 1)
    )


@given(st.integers(1, 400), st.sampled_from([0.05, 0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=60)
def test_ranks_are_the_narrowest_with_each_tail_at_most_two_and_a_half_percent(
    count: int, share: float
) -> None:
    ranks = intervals.order_statistic_ranks(count, share)
    if ranks is None:
        outermost = max(binomial_cdf(count, share, 0), 1 - binomial_cdf(count, share, count - 1))
        assert outermost > 0.025 - 1e-9
        return
    low, high = ranks
    assert binomial_cdf(count, share, low - 1) <= 0.025 + 1e-9
    assert binomial_cdf(count, share, low) > 0.025 - 1e-9
    assert 1 - binomial_cdf(count, share, high - 1) <= 0.025 + 1e-9
    assert 1 - binomial_cdf(count, share, high - 2) > 0.025 - 1e-9


def test_a_percentile_needs_values_on_both_sides_and_the_normal_tail_takes_over_smoothly() -> None:
    for count, share, known in ((367, 0.99, False), (368, 0.99, True), (5, 0.5, False)):
        assert (intervals.order_statistic_ranks(count, share) is not None) == known
    assert intervals.order_statistic_ranks(6, 0.5) == (1, 6)
    exact, approximate = (intervals.order_statistic_ranks(n, 0.95) for n in (20_000, 20_001))
    assert exact is not None
    assert approximate is not None
    assert exact == pytest.approx(approximate, abs=2)


def correlated(generator: random.Random, count: int, memory: float) -> list[float]:
    """An exponential margin with an autoregressive order: slow spells, as an engine has."""
    normal, state, values = NormalDist(), 0.0, []
    spread = math.sqrt(1 - memory**2)
    state = generator.gauss(0, 1)
    for _ in range(count):
        state = memory * state + spread * generator.gauss(0, 1)
        values.append(-math.log(max(1e-12, 1 - normal.cdf(state))))
    return values


@pytest.mark.parametrize(
    ("memory", "count", "least"), [(0.0, 60, 0.92), (0.0, 600, 0.93), (0.8, 1500, 0.90)]
)
def test_intervals_cover_the_truth(memory: float, count: int, least: float) -> None:
    runs = 250
    means = medians = tails = known = 0
    for seed in range(runs):
        summary = summarise(correlated(random.Random(seed), count, memory))
        assert summary is not None
        assert summary.mean_interval is not None
        assert summary.p50_interval is not None
        means += summary.mean_interval[0] <= 1.0 <= summary.mean_interval[1]
        medians += summary.p50_interval[0] <= math.log(2) <= summary.p50_interval[1]
        if summary.p95_interval is not None:
            known += 1
            tails += summary.p95_interval[0] <= math.log(20) <= summary.p95_interval[1]
    # Three standard deviations of 250 coins below what is stated, more where values hang together.
    assert means / runs >= min(least, 0.90)
    assert medians / runs >= least
    if known > runs / 2:
        assert tails / known >= min(least, 0.90)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_an_interval_holds_its_estimate_or_is_none(values: list[float]) -> None:
    ordered = sorted(values)
    for share in (0.5, 0.95, 0.99):
        at = percentile(ordered, share)
        interval = intervals.percentile_interval(values, ordered, share, at)
        if interval is not None:
            assert interval[0] <= at <= interval[1] or interval[0] == interval[1]
            assert {*interval} <= {*values}
    mean = intervals.mean_interval(values)
    assert (mean is None) == (len(values) < 20)


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=90))
def test_parts_hold_every_value_once_and_two_at_least(values: list[float]) -> None:
    sums, sizes = intervals.batches_of(values)
    assert len(sums) == len(sizes) == (20 if len(values) >= 40 else 10)
    assert sum(sizes) == len(values)
    assert min(sizes) >= 2
    assert math.fsum(sums) == pytest.approx(math.fsum(values), abs=1e-3)


rates = st.lists(st.floats(1, 1e3), min_size=3, max_size=30)


@given(rates, st.floats(0.1, 10))
def test_a_ratio_of_equal_parts_is_never_surer_than_the_mean_of_independent_ones(
    values: list[float], size: float
) -> None:
    totals = [value * size for value in values]
    width = intervals.ratio_half_width(totals, [size] * len(values))
    assert width >= intervals.half_width(values) * (1 - 1e-6) - 1e-9


def test_parts_that_resemble_their_neighbours_widen_the_interval() -> None:
    slow_wave = [10 + math.sin(i / 3) for i in range(20)]
    shuffled = random.Random(3).sample(slow_wave, 20)
    sizes = [1.0] * 20
    assert intervals.ratio_half_width(slow_wave, sizes) > 1.5 * intervals.ratio_half_width(
        shuffled, sizes
    )
    assert math.isinf(intervals.ratio_half_width([1.0, 1.0], [1.0, 1.0])), (
        "fewer than three say nothing"
    )
