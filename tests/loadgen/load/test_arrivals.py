"""Arrivals follow the process they are named after."""

import itertools
import math
import statistics
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import constant, gamma, poisson, ramp, replay
from loadgen.load.arrivals import until


def gaps(arrivals: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise([0.0, *arrivals])]


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 4.0, 25.0])
def test_the_gaps_variation_is_the_burstiness_to_the_minus_half(burstiness: float) -> None:
    between = gaps(list(itertools.islice(gamma(10.0, burstiness, seed=3), 40_000)))
    mean = statistics.fmean(between)
    assert mean == pytest.approx(0.1, rel=0.04)
    assert statistics.pstdev(between) / mean == pytest.approx(burstiness**-0.5, rel=0.05)


@given(st.floats(0.5, 500), st.floats(0.1, 10), st.integers(0, 1000))
def test_arrivals_grow_and_repeat_for_the_same_seed(
    rate: float, burstiness: float, seed: int
) -> None:
    for made in (partial(gamma, rate, burstiness, seed), partial(poisson, rate, seed)):
        first = list(itertools.islice(made(), 20))
        assert first == list(itertools.islice(made(), 20))
        assert first == sorted(first)


def test_arrivals_come_at_the_asked_rate() -> None:
    assert list(itertools.islice(constant(4), 4)) == [0.0, 0.25, 0.5, 0.75]
    assert list(replay([0.0, 1.0, 4.0], 2.0)) == [0.0, 0.5, 2.0]
    assert sum(1 for _ in until(poisson(100, seed=5), 100)) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize(("low", "high"), [(10.0, 110.0), (110.0, 10.0), (0.0, 60.0), (60.0, 60.0)])
def test_a_ramp_has_the_expected_count_in_every_part(low: float, high: float) -> None:
    arrivals = list(until(ramp(low, high, 100.0, seed=1), 150.0))

    def expected(a: float, b: float) -> float:
        def up_to(t: float) -> float:
            inside = min(t, 100.0)
            return low * inside + (high - low) * inside**2 / 200 + high * max(0.0, t - 100.0)

        return up_to(b) - up_to(a)

    for a, b in [(0, 25), (25, 50), (50, 75), (75, 100), (100, 150)]:
        count = sum(a <= at < b for at in arrivals)
        # Four standard deviations of a Poisson count: one in 16,000, and the seed is fixed.
        assert abs(count - expected(a, b)) <= 4 * math.sqrt(expected(a, b)) + 1


def test_a_ramp_to_nothing_ends() -> None:
    arrivals = list(ramp(50.0, 0.0, 10.0, seed=2))
    assert max(arrivals) <= 10.0
    assert len(arrivals) == pytest.approx(250, rel=0.25)


rates = st.just(0.0) | st.floats(1e-3, 1e3)


@given(rates, rates, st.floats(0.1, 1e3))
def test_ramps_grow(low: float, high: float, seconds: float) -> None:
    if low + high == 0:
        return
    arrivals = list(itertools.islice(ramp(low, high, seconds, seed=0), 50))
    assert all(math.isfinite(at) and at >= 0 for at in arrivals)
    assert arrivals == sorted(arrivals)


def test_impossible_arrivals_are_refused() -> None:
    for bad in (
        *(partial(gamma, 1.0, 0.0), partial(gamma, 0.0, 1.0), partial(gamma, 1.0, math.inf)),
        *(
            partial(ramp, 0.0, 0.0, 1.0),
            partial(ramp, -1.0, 5.0, 1.0),
            partial(ramp, 1.0, 5.0, 0.0),
        ),
        partial(replay, [], 0.0),
        *(partial(poisson, rate) for rate in (0.0, -1.0, math.nan, math.inf)),
    ):
        with pytest.raises(ValueError, match="must"):
            next(iter(bad()))
