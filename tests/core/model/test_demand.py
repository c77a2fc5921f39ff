"""Plans use a demand's mean, its burst, or a percentile of its arrivals."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.demand import Demand
from partitiond.core.numbers.poisson import poisson_quantile


def _distribution(mean: float, k: int) -> float:
    return math.fsum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k + 1))


@given(st.floats(0.01, 300), st.floats(0.5, 0.999))
def test_the_quantile_is_the_least_number_that_is_reached_so_often(
    mean: float, share: float
) -> None:
    k = poisson_quantile(mean, share)
    assert _distribution(mean, k) >= share - 1e-9
    if k > 0:
        assert _distribution(mean, k - 1) <= share + 1e-9


@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_exact_and_approximate_quantiles_meet(share: float) -> None:
    z = statistics.NormalDist().inv_cdf(share)
    for mean in (9.9e5, 1.01e6):
        about = mean + z * math.sqrt(mean) + (z * z - 1) / 6
        assert abs(poisson_quantile(mean, share) - about) <= 2


def test_a_percentile_plans_for_busy_windows_and_without_one_the_burst_is_planned() -> None:
    assert poisson_quantile(0.0, 0.99) == 0
    assert Demand(4.0, burst_factor=1.5).planned_req_per_s == 6.0
    assert Demand().planned_req_per_s is None
    short = Demand(4.0, percentile=99, window_seconds=1).planned_req_per_s
    long = Demand(4.0, percentile=99, window_seconds=600).planned_req_per_s
    assert short == 9.0  # P(N <= 9) = 0.9919 for a mean of 4
    assert long is not None
    assert 4.0 < long < 4.3


@given(st.floats(0.001, 1e6), st.floats(1, 10), st.floats(50, 99.99), st.floats(0.1, 3600))
def test_a_percentile_never_plans_for_less_than_the_mean(
    rate: float, burst: float, percentile: float, window: float
) -> None:
    planned = Demand(rate, burst, 1.0, percentile, window).planned_req_per_s
    assert planned is not None
    assert planned >= rate * burst


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"percentile": 0.99, "req_per_s": 1.0}, "Write 99"),
        ({"percentile": 100, "req_per_s": 1.0}, "below 100"),
        ({"percentile": 99}, "needs a demand"),
        ({"percentile": 99, "req_per_s": 1.0, "window_seconds": 0}, "window_seconds"),
        ({"percentile": math.nan, "req_per_s": 1.0}, "percentile"),
    ],
)
def test_senseless_percentiles_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(SpecError) as error:
        Demand(**given)
    assert words in f"{error.value.message} {error.value.hint}"
