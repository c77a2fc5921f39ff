"""Rates have intervals that hold the truth about as often as claimed; bursts widen them."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.advise import traffic
from partitiond.advise.observe import EngineWindow, Interval, increase, keep, merge, observe
from partitiond.advise.readings import Reading
from tests.advise.looks import Look, captured, histogram, readings_in, scrape, stretches, window


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
        rate = traffic.rate_of(stretches([poisson(make, level) for level in levels]))
        inside += rate.low <= per_cell <= rate.high
    return inside / 300


def test_intervals_hold_the_truth_of_poisson_arrivals_and_of_bursts() -> None:
    """Where Poisson's alone would not."""
    for per_cell in (0.1, 1.0, 5.0):
        assert held(random.Random(1), per_cell, 1.0) >= 0.93
    rng = random.Random(2)
    assert held(rng, 2.0, 6.0) >= 0.88
    inside = 0
    for _ in range(300):
        bursts = sum(poisson(rng, 12 if rng.random() < 1 / 6 else 0) for _ in range(60))
        low, high = traffic.poisson_limits(bursts)
        inside += low <= 120 <= high
    assert inside / 300 < 0.75


def test_poissons_limits_are_the_exact_ones_to_a_few_percent() -> None:
    for count, *limits in ((0, 0, 3.689), (5, 1.623, 11.668), (100, 81.36, 121.63)):
        assert traffic.poisson_limits(int(count)) == pytest.approx(tuple(limits), rel=0.04)
    cells = traffic.cells_of([Interval(0, 10, 20), Interval(5, 15, 10), Interval(15, 15, 99)])
    told = [(c.begin, c.end, c.arrivals) for c in cells]
    assert told == [(0, 5, 10), (5, 10, 15), (10, 15, 5)], "however looks lie"


def test_a_models_engines_are_one_stream() -> None:
    windows = [window("a", per_second=1.0), window("b", per_second=3.0), window("c", "other")]
    model, other = traffic.traffic_of(windows)
    assert (model.model, len(model.engines), other.model) == ("m", 2, "other")
    assert model.seen.middle == pytest.approx(4.0)
    assert model.seen.low < 4 < model.seen.high
    assert (model.prompt.mean, model.output.mean) == (100, 50)  # type: ignore[union-attr]


def test_a_real_engine_told_what_it_was_sent() -> None:
    (model,) = traffic.traffic_of(observe(readings_in(captured())))
    # 1.2 requests/s were sent in the mean, of 42 and 16 tokens.
    assert model.seen.low < 1.2 < model.seen.high
    assert model.planned.low < model.seen.low
    assert model.planned.high > model.seen.high
    assert model.ttft_p95_seconds is not None
    assert 0.01 < model.ttft_p95_seconds < 2.5
    assert model.tpot_p95_seconds is not None


def test_no_arrivals_still_have_an_upper_end() -> None:
    (model,) = traffic.traffic_of([window(per_second=0.0)])
    assert model.seen.middle == 0
    assert 0 < model.seen.high == model.planned.high < 0.01
    assert model.prompt is None


def observed(*looks: Look) -> EngineWindow:
    (window,) = observe(readings_in(looks))
    return window


def test_arrivals_are_what_ended_waits_or_was_refused_and_a_restart_begins_at_zero() -> None:
    first = scrape(0, ended=5, running=1)
    window = observed(first, scrape(10, ended=6, running=2, waiting=3, refused=4))
    assert [s.arrivals for s in window.stretches] == [1 + 4 + 4]
    anew = scrape(5, ended=2, running=1)
    window = observed(scrape(0, ended=100, running=3), anew, scrape(10, ended=6))
    assert (window.restarts, window.ended) == (1, 2 + 4)
    assert [s.arrivals for s in window.stretches] == [3, 3]


def test_a_lost_look_makes_the_stretch_longer_and_one_look_is_no_observation() -> None:
    window = observed(scrape(0, ended=0), scrape(30, ended=60), scrape(35, ended=70))
    assert [(s.begin, s.end, s.arrivals) for s in window.stretches] == [(0, 30, 60), (30, 35, 10)]
    assert observe(readings_in([scrape(0, ended=3)])) == ()
    window = observed(scrape(0, model="x"), scrape(5, ended=1), scrape(10, ended=4))
    assert (window.key.model, window.stretches[0].begin, window.ended) == ("m", 5, 3)


@given(st.lists(st.integers(0, 50), min_size=1), st.sets(st.integers(0, 40)))
def test_increases_add_up_to_what_happened(steps: list[int], restarts: set[int]) -> None:
    """A process that ends loses nothing that was looked at."""
    shown, value = [0], 0
    for number, step in enumerate(steps):
        # A counter that began anew and overtook its old value cannot be told from one that grew.
        began_anew = number in restarts and step < value
        value = step if began_anew else value + step
        shown.append(value)
    pairs = itertools.pairwise(shown)
    assert sum(increase(a, b) for a, b in pairs) == sum(steps)


def test_what_is_forgotten_of_looks_in_between_changes_nothing() -> None:
    # The engine began anew after the third look.
    looks = [*captured(), *((at + 90, samples) for at, samples in captured())]
    ((key, readings),) = readings_in(looks).items()
    kept: list[Reading] = []
    for reading in readings:
        keep(kept, reading)

    (whole,), (thin,) = observe({key: readings}), observe({key: kept})
    assert thin == whole
    assert whole.restarts == 1
    assert [bool(reading.histograms) for reading in kept] == [True, False, True] * 2


def test_histograms_of_different_ends_are_put_together() -> None:
    short = histogram([3, 30], [5, 50])
    longer = histogram([4, 400], [5, 50, 500])
    both = merge([short, longer])
    assert both.count == 4
    assert both.total == 437
    assert dict(zip(both.bounds, both.counts, strict=True)) == {5: 2, 50: 3, 500: 4, math.inf: 4}
