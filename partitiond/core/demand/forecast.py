"""Forecasts the demand for a model from its past demand. Pure.

Demand is observed in steps of equal length: the requests per second that arrived in each step,
refused ones included. A forecast is for the step that lies `horizon_steps` ahead, about the time
until one more replica serves. Its upper end is a quantile of the forecasts' own errors, so that an
unpredictable demand gets a wide margin and a steady one a narrow margin.

The middle is an exponentially weighted mean of the steps. Errors are kept in units of the square
root of the level, as counts of independent arrivals scatter, so errors at one level apply to
another. docs/planning.md compares it with other methods.
"""

import dataclasses
import math
from typing import Final

from partitiond.core.checks import require
from partitiond.core.numbers.poisson import poisson_quantile

MIN_ERRORS: Final = 8
"""With fewer errors of its own, a forecast takes its margin from Poisson arrivals. Chosen."""
MAX_KEPT: Final = 100_000
"""Bound on errors and steps kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForecastPolicy:
    """Settings of a forecast.

    Attributes:
        step_seconds: length of a step.
        horizon_steps: how far ahead the forecast is.
        alpha: weight of the newest step in the mean, 0..1.
        quantile: share of the errors that lie below the upper end.
        errors: number of the newest errors that are kept.
    """

    step_seconds: float = 10.0
    horizon_steps: int = 6
    alpha: float = 0.3
    quantile: float = 0.9
    errors: int = 180

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.step_seconds) and self.step_seconds > 0,
            f"step_seconds must be greater than 0, got {self.step_seconds!r}.",
            "10 is usual.",
        )
        require(
            1 <= self.horizon_steps <= MAX_KEPT,
            f"horizon_steps must lie between 1 and {MAX_KEPT}, got {self.horizon_steps!r}.",
            "The horizon is about the time an engine takes to start.",
        )
        require(
            0 <= self.alpha <= 1,
            f"alpha must lie between 0 and 1, got {self.alpha!r}.",
            "0.3 is usual.",
        )
        require(
            0.5 <= self.quantile < 1,
            f"quantile must be at least 0.5 and below 1, got {self.quantile!r}.",
            "0.9 leaves every tenth step above the upper end.",
        )
        require(
            MIN_ERRORS <= self.errors <= MAX_KEPT,
            f"errors must lie between {MIN_ERRORS} and {MAX_KEPT}, got {self.errors!r}.",
            "180 steps of 10 s are half an hour.",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """Observed demand of one model, as far as forecasts need it.

    Attributes:
        steps: number of observed steps.
        level: weighted mean of the steps, in requests/s.
        foretold: middles that were forecast for the coming steps, the next step first.
        errors: scaled errors at the horizon, oldest first.
    """

    steps: int = 0
    level: float = 0.0
    foretold: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()


NOTHING_SEEN: Final = Series()


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """Expected demand in the step at the horizon.

    Attributes:
        req_per_s: the middle.
        upper_req_per_s: one step in 1 / (1 - quantile) lies above this rate.
    """

    req_per_s: float
    upper_req_per_s: float


def observed(series: Series, req_per_s: float, policy: ForecastPolicy) -> Series:
    """Return the series with one more step.

    Args:
        req_per_s: requests per second that arrived in the step; at least 0.
    """
    rate = max(0.0, req_per_s)
    # The plain mean of all steps, until there are more steps than the weight remembers.
    alpha = max(policy.alpha, 1.0 / (series.steps + 1))
    level = alpha * rate + (1 - alpha) * series.level
    # After a shorter horizon was set, forecasts for later steps are of no use any more.
    errors, foretold = series.errors, series.foretold[-policy.horizon_steps :]
    if len(foretold) >= policy.horizon_steps:
        middle, *later = foretold
        errors = (*errors, (rate - middle) / _scale(middle, policy))[-policy.errors :]
        foretold = tuple(later)
    return Series(series.steps + 1, level, (*foretold, level), errors)


def forecast(series: Series, policy: ForecastPolicy) -> Forecast:
    """Forecast the step at the horizon; zero if no step was observed."""
    if not series.steps:
        return Forecast(0.0, 0.0)
    middle = series.level
    if len(series.errors) < MIN_ERRORS:
        count = poisson_quantile(middle * policy.step_seconds, policy.quantile)
        return Forecast(middle, max(middle, count / policy.step_seconds))
    margin = quantile_of(series.errors, policy.quantile) * _scale(middle, policy)
    return Forecast(middle, max(middle + margin, 0.0))


def quantile_of(values: tuple[float, ...], share: float) -> float:
    """Return the least value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _scale(req_per_s: float, policy: ForecastPolicy) -> float:
    """Return the scatter of counts of independent arrivals around the rate, from one request up."""
    return math.sqrt(max(req_per_s, 1 / policy.step_seconds) / policy.step_seconds)
