"""Two looks tell what came between them; rates have intervals that hold the truth."""

import math
import random

import pytest

from partitiond.advise.traffic import merge, rate_of, traffic_of
from tests.advise.looks import CAPTURED_SECONDS, captured, histogram, scrape, traffic_seen


def poisson(rng: random.Random, mean: float) -> int:
    count, level = 0, rng.random()
    while level > math.exp(-mean):
        level *= rng.random()
        count += 1
    return count


@pytest.mark.parametrize("mean", [6, 60, 300])
def test_intervals_hold_the_truth_of_poisson_arrivals(mean: int) -> None:
    rng, inside = random.Random(1), 0
    for _ in range(300):
        rate = rate_of(poisson(rng, mean), 60.0)
        inside += rate.low <= mean / 60 <= rate.high
    assert 0.93 <= inside / 300 < 1


def test_poissons_limits_are_the_exact_ones_to_a_few_percent() -> None:
    for count, *limits in ((0, 0, 3.689), (5, 1.623, 11.668), (100, 81.36, 121.63)):
        rate = rate_of(count, 2.0)
        assert (2 * rate.low, 2 * rate.high) == pytest.approx(tuple(limits), rel=0.04)
        assert rate.middle == count / 2


def test_a_models_engines_are_one_stream() -> None:
    model, other = traffic_seen(("a", "m", 1.0), ("b", "m", 3.0), ("c", "other", 1.0))
    assert (model.model, len(model.engines), other.model) == ("m", 2, "other")
    assert model.rate.middle == pytest.approx(4.0)
    assert (model.prompt.mean, model.output.mean) == (100, 50)  # type: ignore[union-attr]


def test_a_real_engine_told_what_it_was_sent() -> None:
    first, second = captured()
    (model,) = traffic_of(first, second, CAPTURED_SECONDS)
    # 1.2 requests/s were sent in the mean, of 42 and 16 tokens.
    assert model.rate.low < 1.2 < model.rate.high
    assert model.prompt is not None
    assert model.prompt.mean == pytest.approx(44, rel=0.1)
    assert model.ttft_p95_seconds is not None
    assert 0.01 < model.ttft_p95_seconds < 2.5
    assert model.tpot_p95_seconds is not None


def test_no_arrivals_still_have_an_upper_end() -> None:
    (model,) = traffic_seen(("a", "m", 0.0))
    assert model.rate.middle == model.rate.low == 0
    assert 0 < model.rate.high < 0.01
    assert model.prompt is None
    assert model.tpot_p95_seconds is None


@pytest.mark.parametrize(
    ("before", "after", "arrivals"),
    [
        ({"ended": 5, "running": 1}, {"ended": 6, "running": 2, "waiting": 3, "refused": 4}, 9),
        ({"ended": 100, "running": 3}, {"ended": 2, "running": 1, "refused": 4}, 7),
        ({"ended": 5, "running": 2}, {"ended": 6}, 0),
    ],
)
def test_arrivals_are_what_ended_waits_or_was_refused_and_a_restart_begins_at_zero(
    before: dict[str, float], after: dict[str, float], arrivals: int
) -> None:
    (model,) = traffic_of(scrape("m", **before), scrape("m", **after), 10.0)
    assert model.rate.middle * 10 == arrivals
    assert model.restarts == (after["ended"] < before["ended"])
    assert model.refused == after.get("refused", 0)


def test_lengths_of_a_restarted_engine_are_those_since() -> None:
    first, second = captured()
    (whole,) = traffic_of(first, second, CAPTURED_SECONDS)
    (anew,) = traffic_of(second, first, CAPTURED_SECONDS)
    (plain,) = traffic_of(scrape(model="smollm2-135m"), first, CAPTURED_SECONDS)
    assert (whole.restarts, anew.restarts) == (0, 1)
    assert anew.prompt == plain.prompt


def test_what_only_one_look_found_is_no_observation() -> None:
    assert traffic_of(scrape(ended=1), {}, 10.0) == ()
    assert traffic_of({}, scrape(ended=1), 10.0) == ()
    (model,) = traffic_of(scrape(model="x") | scrape(ended=1), scrape(ended=4), 10.0)
    assert (model.model, model.rate.middle) == ("m", 0.3)


def test_histograms_of_different_ends_are_put_together() -> None:
    both = merge([histogram([3, 30], [5, 50]), histogram([4, 400], [5, 50, 500])])
    assert both.count == 4
    assert both.total == 437
    assert dict(zip(both.bounds, both.counts, strict=True)) == {5: 2, 50: 3, 500: 4, math.inf: 4}
