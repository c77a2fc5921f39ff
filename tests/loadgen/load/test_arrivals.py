"""Arrivals follow the process they are named after."""

import itertools
import math
import statistics
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import constant, gamma, poisson, replay
from loadgen.load.arrivals import until


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 25.0])
def test_the_gaps_variation_is_the_burstiness_to_the_minus_half(burstiness: float) -> None:
    arrivals = itertools.islice(gamma(10.0, burstiness, seed=3), 40_000)
    between = [later - sooner for sooner, later in itertools.pairwise([0.0, *arrivals])]
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


def test_arrivals_come_at_the_asked_rate_and_impossible_ones_are_refused() -> None:
    assert list(itertools.islice(constant(4), 4)) == [0.0, 0.25, 0.5, 0.75]
    assert list(replay([0.0, 1.0, 4.0], 2.0)) == [0.0, 0.5, 2.0]
    assert sum(1 for _ in until(poisson(100, seed=5), 100)) == pytest.approx(10_000, rel=0.05)
    for bad in (
        *(partial(gamma, 1.0, 0.0), partial(gamma, 0.0, 1.0), partial(gamma, 1.0, math.inf)),
        partial(replay, [], 0.0),
        *(partial(poisson, rate) for rate in (0.0, -1.0, math.nan, math.inf)),
    ):
        with pytest.raises(ValueError, match="must"):
            next(iter(bad()))
