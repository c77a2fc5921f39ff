"""Rates have intervals that hold the truth about as often as claimed; bursts widen them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise.observe import Interval, observe
from partitiond.advise.traffic import (
    busiest,
    cells_of,
    idle_of,
    poisson_limits,
    rate_of,
    traffic_of,
)
from tests.advise.looks import captured, stretches, window


def poisson(rng: random.Random, mean: float) -> int:
    count, level = 0, rng.random()
    while level > math.exp(-mean):
        level *= rng.random()
        count += 1
    return count


def held(make: random.Random, per_cell: float, bursts: float) -> float:
    """Share of 300 windows of 60 cells whose interval holds the true rate."""
    inside = 0
    for _ in range(300):
        levels = [per_cell * (bursts if make.random() < 1 / bursts else 0) for _ in range(60)]
        rate = rate_of(stretches([poisson(make, level) for level in levels]))
        inside += rate.low <= per_cell <= rate.high
    return inside / 300


@pytest.mark.parametrize("per_cell", [0.1, 1.0, 5.0])
def test_intervals_hold_the_truth_of_poisson_arrivals(per_cell: float) -> None:
    assert held(random.Random(1), per_cell, 1.0) >= 0.93


def test_intervals_hold_the_truth_of_bursts_where_poissons_alone_would_not() -> None:
    rng = random.Random(2)
    assert held(rng, 2.0, 6.0) >= 0.88
    narrow = [
        low <= 120 <= high
        for _ in range(300)
        for low, high in [
            poisson_limits(sum(poisson(rng, 12 if rng.random() < 1 / 6 else 0) for _ in range(60)))
        ]
    ]
    assert sum(narrow) / 300 < 0.75


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0, 3.689), (5, 1.623, 11.668), (100, 81.36, 121.63)]
)
def test_poissons_limits_are_the_exact_ones_to_a_few_percent(
    count: int, low: float, high: float
) -> None:
    found = poisson_limits(count)
    assert found == pytest.approx((low, high), rel=0.04)


def test_engines_add_up_however_their_looks_lie() -> None:
    cells = cells_of([Interval(0, 10, 20), Interval(5, 15, 10), Interval(15, 15, 99)])
    assert [(c.begin, c.end, c.arrivals) for c in cells] == [
        (0, 5, 10), (5, 10, 15), (10, 15, 5),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 25))
def test_the_busiest_window_is_the_busiest(arrivals: list[int], seconds: int) -> None:
    found = busiest(stretches([float(n) for n in arrivals]), seconds)
    if seconds >= len(arrivals):
        assert len(found) == len(arrivals)
        return
    best = max(sum(arrivals[i : i + seconds]) for i in range(len(arrivals) - seconds + 1))
    assert len(found) == seconds
    assert math.fsum(c.arrivals for c in found) == best


def test_a_plan_is_for_the_noon_not_for_the_day() -> None:
    day = stretches([60.0] * 100 + [600.0] * 15 + [60.0] * 100, seconds=60)
    rate = rate_of(busiest(day, 900))
    assert rate.middle == pytest.approx(10)
    assert rate_of(busiest(day, None)).middle < 2


def test_a_models_engines_are_one_stream() -> None:
    windows = [window("a", per_second=1.0), window("b", per_second=3.0), window("c", "other")]
    model, other = traffic_of(windows)
    assert (model.model, len(model.engines), other.model) == ("m", 2, "other")
    assert model.mean.middle == pytest.approx(4.0)
    assert model.mean.low < 4 < model.mean.high
    assert (model.prompt.mean, model.output.mean) == (100, 50)  # type: ignore[union-attr]


def test_a_real_engine_told_what_it_was_sent() -> None:
    (model,) = traffic_of(observe({"a": captured()}))
    # 1.2 requests/s were sent in the mean, of 42 and 16 tokens.
    assert model.mean.low < 1.2 < model.mean.high
    assert model.planned.low < model.busiest.low
    assert model.planned.high > model.busiest.high
    assert model.ttft_p95_seconds is not None
    assert 0.01 < model.ttft_p95_seconds < 2.5
    assert model.tpot_p95_seconds is not None
    assert model.kv_tokens > 0
    assert model.peak_kv_tokens is not None


def test_no_arrivals_still_have_an_upper_end() -> None:
    (model,) = traffic_of([window(per_second=0.0)])
    assert model.busiest.middle == 0
    assert 0 < model.busiest.high < 0.01
    assert model.planned.high == model.busiest.high
    assert model.prompt is None


def test_idle_looks() -> None:
    idle = idle_of([0, 0, 0, 2])
    assert idle.share == 0.75
    assert 0.2 < idle.low < 0.75 < idle.high < 1
    assert idle_of([]).looks == 0
