"""A forecast follows the demand, and its upper end holds its quantile."""

import dataclasses
import math
import random

import pytest

from partitiond.core.demand import forecast as forecasts
from partitiond.core.demand.forecast import NOTHING_SEEN, ForecastPolicy, forecast, observed
from partitiond.core.errors import SpecError


def seen(rates: list[float], policy: ForecastPolicy) -> forecasts.Series:
    series = NOTHING_SEEN
    for rate in rates:
        series = observed(series, rate, policy)
    return series


def test_a_steady_demand_is_foretold_as_it_is() -> None:
    policy = ForecastPolicy()
    found = forecast(seen([3.0] * 60, policy), policy)
    assert found.req_per_s == pytest.approx(3.0)
    assert found.upper_req_per_s == pytest.approx(3.0)


def test_of_few_steps_the_margin_is_that_of_independent_arrivals() -> None:
    policy = ForecastPolicy(step_seconds=10, quantile=0.9)
    found = forecast(seen([1.0], policy), policy)
    assert found.req_per_s == 1.0
    assert found.upper_req_per_s == 1.4  # 14 of 10 requests, in 90 % of steps


def test_a_mean_follows_a_level_and_no_more_is_kept_than_needed() -> None:
    policy = ForecastPolicy(alpha=0.3, errors=20, horizon_steps=4)
    nothing = forecast(NOTHING_SEEN, policy)
    assert (nothing.req_per_s, nothing.upper_req_per_s) == (0.0, 0.0)
    series = seen([1.0] * 50 + [9.0] * 20, policy)
    one = forecast(seen([1.0] * 50 + [9.0], policy), policy).req_per_s
    many = forecast(series, policy).req_per_s
    assert 1.0 < one < many < 9.0
    assert many == pytest.approx(9.0, rel=0.01)
    assert (len(series.errors), len(series.foretold)) == (20, 4)


@pytest.mark.parametrize("rate", [0.3, 5.0, 200.0])
@pytest.mark.parametrize("quantile", [0.8, 0.9, 0.95])
def test_the_upper_end_is_above_as_many_steps_as_it_says(rate: float, quantile: float) -> None:
    draw = random.Random(f"{rate} {quantile}")
    policy = ForecastPolicy(quantile=quantile, step_seconds=10)
    series, above, counted = NOTHING_SEEN, 0, 0
    foretold: list[float] = []
    for step in range(3000):
        arrived = _poisson(draw, rate * 10) / 10
        if step >= 200:
            counted += 1
            above += arrived <= foretold[-policy.horizon_steps]
        series = observed(series, arrived, policy)
        foretold.append(forecast(series, policy).upper_req_per_s)
    assert above / counted == pytest.approx(quantile, abs=0.06)


def test_what_was_learned_at_one_level_holds_at_another() -> None:
    draw = random.Random(7)
    policy = ForecastPolicy(quantile=0.9, step_seconds=10)
    series = seen([_poisson(draw, 100) / 10 for _ in range(300)], policy)
    margin = forecast(series, policy).upper_req_per_s / 10
    tenfold = seen([_poisson(draw, 1000) / 10 for _ in range(30)], policy)
    moved = forecast(dataclasses.replace(tenfold, errors=series.errors), policy)
    # Ten times the level scatters the root of ten times as far, and so less beside it.
    assert 1.0 < moved.upper_req_per_s / moved.req_per_s < margin


def test_the_quantile_is_one_of_the_values() -> None:
    assert forecasts.quantile_of((3.0, 1.0, 2.0, 4.0), 0.5) == 2.0
    assert forecasts.quantile_of((3.0, 1.0, 2.0, 4.0), 0.99) == 4.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_seconds": 0},
        {"alpha": 1.5},
        {"quantile": 1.0},
        {"horizon_steps": 0},
        {"errors": 2},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        ForecastPolicy(**wrong)  # type: ignore[arg-type]


def _poisson(draw: random.Random, mean: float) -> int:
    """Arrivals of unit rate until the mean has passed."""
    count, at = 0, draw.expovariate(1.0)
    while at < mean:
        count += 1
        at += draw.expovariate(1.0)
    return count


def test_a_horizon_that_is_made_shorter_is_what_errors_are_measured_at() -> None:
    long = ForecastPolicy(alpha=1.0, horizon_steps=6)
    short = dataclasses.replace(long, horizon_steps=1)
    series = NOTHING_SEEN
    for step in range(12):
        series = observed(series, float(step), long)
    for step in range(12, 24):
        series = observed(series, float(step), short)
    assert len(series.foretold) == 1
    one_step_late = 1.0 / (math.sqrt(22.0 / short.step_seconds))
    assert series.errors[-1] == pytest.approx(one_step_late)
