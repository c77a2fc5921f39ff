"""The trial search on simulated engines: what it visits, what it finds, and what it costs."""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.frontier import knee_range
from partitiond.core.profile import LimitedBy
from partitiond.profiler.search import (
    MAX_VISITS_PER_BATCH,
    Done,
    NextTrial,
    Purpose,
    SearchLimits,
    Visit,
    best_rate,
    combine,
    curve,
    propose,
    seconds_left,
)

OUTPUT_TOKENS = 32
Curve = Callable[[int], float]


def saturating(base: float, slope: float) -> Curve:
    """Step time base + slope b: grows for ever, ever slower."""
    return lambda b: b / (base + slope * b)


def flattening(knee: int, top: float = 1000.0) -> Curve:
    """Grows in proportion, and not at all beyond the knee."""
    return lambda b: top * min(b, knee) / knee


@dataclasses.dataclass
class Outcome:
    visits: list[Visit]
    done: Done
    elapsed: float

    @property
    def knee(self) -> int:
        rates = curve(self.visits)
        best = best_rate(self.visits) or max(r.output_tokens_per_s for r in rates)
        return knee_range(rates, best, 0.05)[0]

    @property
    def counts(self) -> Counter[int]:
        return Counter(v.batch for v in self.visits)


def simulate(
    rate: Curve,
    limits: SearchLimits,
    *,
    noise: float = 0.0,
    seed: int = 0,
    kv_batch: int = 10**9,
) -> Outcome:
    """Run the search to its end against an engine of this throughput."""
    generator = random.Random(seed)
    visits: list[Visit] = []
    elapsed = 0.0
    for _ in range(500):
        proposal = propose(visits, limits, elapsed)
        if isinstance(proposal, Done):
            return Outcome(visits, proposal, elapsed)
        long = proposal.purpose is Purpose.CONFIRM
        sigma = noise * math.sqrt(limits.min_window_seconds / proposal.min_window_seconds)
        assert (proposal.min_window_seconds > limits.min_window_seconds) == long
        visit = trial(rate, proposal, generator.gauss(0, sigma), sigma, kv_batch)
        visits.append(visit)
        elapsed += visit.seconds
    raise AssertionError("the search does not end")


def trial(rate: Curve, proposal: NextTrial, error: float, noise: float, kv_batch: int) -> Visit:
    true = rate(min(proposal.batch, kv_batch))
    e2el = proposal.batch * OUTPUT_TOKENS / true
    return Visit(
        batch=proposal.batch,
        purpose=proposal.purpose,
        output_tokens_per_s=true * (1 + error),
        half_width=true * noise * 2,
        seconds=1.2 * e2el + max(proposal.min_window_seconds, 2 * e2el),
        e2el_seconds=e2el,
        kv_limited=proposal.batch > kv_batch,
    )


def true_knee(rate: Curve, largest: int) -> int:
    best = max(rate(b) for b in range(1, largest + 1))
    return next(b for b in range(1, largest + 1) if rate(b) >= 0.95 * best)


FREE = SearchLimits(max_batch=512, min_window_seconds=10)


def test_the_first_trial_is_batch_one() -> None:
    first = propose([], FREE, 0.0)
    assert isinstance(first, NextTrial)
    assert (first.batch, first.purpose) == (1, Purpose.UP)


def test_batches_double_upwards_and_are_visited_again_downwards() -> None:
    found = simulate(flattening(8), FREE)
    up = [v.batch for v in found.visits if v.purpose is Purpose.UP]
    down = [v.batch for v in found.visits if v.purpose is Purpose.DOWN]
    assert up == [1, 2, 4, 8, 16, 32], "two doublings without gain, then no further"
    assert down[:6] == [32, 16, 8, 4, 2, 1]


def test_the_best_batch_is_measured_in_a_fresh_window() -> None:
    found = simulate(flattening(8), FREE, noise=0.01, seed=3)
    confirmed = [v.batch for v in found.visits if v.purpose is Purpose.CONFIRM]
    assert 1 <= len(confirmed) <= 2
    assert set(confirmed) <= {8, 16, 32}


def test_the_gap_around_the_knee_is_refined_to_a_quarter() -> None:
    found = simulate(saturating(1.0, 0.05), FREE)
    batches = sorted(found.counts)
    at = batches.index(found.knee)
    below, above = batches[at - 1], batches[at + 1]
    assert found.knee <= 1.25 * below or found.knee - below == 1
    assert above <= 1.25 * found.knee or above - found.knee == 1


@given(st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_without_noise_the_knee_is_found_within_a_quarter(knee: int) -> None:
    rate = flattening(knee)
    found = simulate(rate, FREE)
    true = true_knee(rate, max(found.counts))
    assert found.done.complete
    assert true <= found.knee <= max(true + 1, math.ceil(1.25 * true))


@pytest.mark.parametrize(("noise", "factor"), [(0.01, 1.25), (0.02, 1.35)])
def test_with_noise_the_knee_of_a_corner_is_found_within_a_stated_factor(
    noise: float, factor: float
) -> None:
    """Stated error on a curve with a corner, noise as one sigma of a window: 95 of 100."""
    errors = []
    for seed in range(200):
        knee = 4 + seed
        found = simulate(flattening(knee), FREE, noise=noise, seed=seed)
        true = true_knee(flattening(knee), max(found.counts))
        errors.append(max(found.knee / true, true / found.knee))
    assert sorted(errors)[189] <= factor


def test_on_a_smooth_curve_the_error_of_the_knee_is_larger_and_known() -> None:
    """t = 1 + 0.05 b is flat around its knee, so 1 % noise moves it; throughput it does not."""
    rate = saturating(1.0, 0.05)
    ratios, losses = [], []
    for seed in range(100):
        found = simulate(rate, FREE, noise=0.01, seed=seed)
        largest = max(found.counts)
        true = true_knee(rate, largest)
        ratios.append(abs(math.log(found.knee / true)))
        losses.append(1 - rate(found.knee) / rate(largest))
    assert sorted(ratios)[94] <= math.log(1.6), "95 of 100 within a factor of 1.6"
    assert max(losses) <= 0.05 + 0.05, "throughput given up stays near the tolerance"


@given(
    st.floats(0.01, 1.0),
    st.floats(0.001, 0.1),
    st.floats(0.0, 0.1),
    st.integers(0, 1000),
    st.integers(1, 512),
)
@settings(max_examples=80, deadline=None)
def test_the_search_ends_and_visits_each_batch_twice_but_not_often(
    base: float, slope: float, noise: float, seed: int, max_batch: int
) -> None:
    limits = dataclasses.replace(FREE, max_batch=max_batch)
    found = simulate(saturating(base, slope), limits, noise=noise, seed=seed)
    assert max(found.counts) <= max_batch
    assert all(2 <= n <= MAX_VISITS_PER_BATCH for n in found.counts.values())
    assert found.done.complete


@given(st.floats(0.01, 0.2), st.floats(0.0005, 0.01), st.floats(20, 400), st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_a_time_limit_is_kept_and_no_batch_is_left_half_measured(
    base: float, slope: float, limit: float, seed: int
) -> None:
    limits = SearchLimits(max_batch=128, time_limit_seconds=limit, min_window_seconds=2)
    found = simulate(saturating(base, slope), limits, noise=0.02, seed=seed)
    longest = max(v.seconds for v in found.visits)
    assert found.elapsed <= max(1.25 * limit + longest, 2 * longest)
    if found.elapsed < 1.25 * limit:
        assert all(n >= 2 for n in found.counts.values())


def test_a_sweep_that_time_ended_says_so() -> None:
    limits = SearchLimits(max_batch=512, time_limit_seconds=60, min_window_seconds=3)
    found = simulate(saturating(0.02, 0.002), limits)
    assert found.done.capped_by is LimitedBy.TIME
    assert max(found.counts) < 512


def test_a_sweep_that_reached_the_largest_batch_says_so() -> None:
    found = simulate(saturating(1, 0.001), SearchLimits(max_batch=48))
    assert found.done.capped_by is LimitedBy.CAP
    assert max(found.counts) == 48


def test_a_batch_the_kv_cache_limits_ends_the_growing() -> None:
    found = simulate(saturating(1, 0.001), FREE, kv_batch=20)
    assert found.done.capped_by is LimitedBy.MEMORY
    assert max(found.counts) == 32
    assert found.counts[32] == 1, "what cannot be the knee is not measured again"
    assert 32 not in {r.batch for r in curve(found.visits)}


def visit(batch: int, rate: float, width: float, purpose: Purpose = Purpose.UP) -> Visit:
    return Visit(batch, purpose, rate, width, seconds=5.0, e2el_seconds=0.1)


def test_visits_that_disagree_are_measured_again() -> None:
    visits = [visit(b, r, 1.0) for b, r in ((1, 50), (2, 98), (4, 100), (8, 100))]
    visits += [visit(b, r, 1.0, Purpose.DOWN) for b, r in ((8, 100), (4, 100), (2, 98), (1, 60))]
    visits.append(visit(4, 100, 1.0, Purpose.CONFIRM))
    visits += [visit(3, 99, 1.0, Purpose.REFINE), visit(3, 99, 1.0, Purpose.DOWN)]
    visits.append(visit(8, 100, 1.0, Purpose.CONFIRM))
    proposal = propose(visits, SearchLimits(max_batch=8), 0.0)
    assert isinstance(proposal, NextTrial)
    assert (proposal.batch, proposal.purpose) == (1, Purpose.AGAIN)
    after = [*visits, visit(1, 52, 1.0, Purpose.AGAIN)]
    assert isinstance(propose(after, SearchLimits(max_batch=8), 0.0), Done)


def test_windows_get_an_even_share_of_the_time() -> None:
    limits = SearchLimits(max_batch=32, time_limit_seconds=170, min_window_seconds=3)
    first = propose([], limits, 0.0)
    assert isinstance(first, NextTrial)
    assert 3 <= first.max_window_seconds <= 60
    assert first.max_window_seconds == pytest.approx(170 / 17, rel=0.01)


def test_the_time_left_shrinks_to_nothing() -> None:
    limits = SearchLimits(max_batch=32, time_limit_seconds=150, min_window_seconds=3)
    found = simulate(saturating(0.02, 0.002), limits)
    left = [
        seconds_left(found.visits[:n], limits, math.fsum(v.seconds for v in found.visits[:n]))
        for n in range(len(found.visits) + 1)
    ]
    assert all(0 <= seconds <= 150 for seconds in left)
    assert left[-1] < left[1]


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e3)), min_size=1, max_size=6))
def test_windows_taken_together_lie_between_them_and_show_their_spread(
    windows: list[tuple[float, float]],
) -> None:
    rates, widths = [w[0] for w in windows], [w[1] for w in windows]
    mean, width = combine(rates, widths)
    assert min(rates) * (1 - 1e-9) <= mean <= max(rates) * (1 + 1e-9)
    assert width >= (max(rates) - min(rates)) / 2


def test_an_interval_that_cannot_be_told_counts_as_the_whole_rate() -> None:
    assert combine([100.0], [math.inf]) == (100.0, 100.0)
