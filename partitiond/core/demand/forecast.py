"""Forecasts the demand for a model from its past demand. Pure.

Demand is observed in steps of equal length: the requests per second that arrived in each step,
refused ones included. A forecast is for the step that lies `horizon_steps` ahead, about the time
until one more replica serves. Its upper end is a quantile of the forecasts' own errors, so that an
unpredictable demand gets a wide margin and a steady one a narrow margin.

Errors are kept in units of the square root of the level, as counts of independent arrivals
scatter, so errors at one level apply to another. docs/scaling.md compares the methods.
"""

import dataclasses
import enum
import math
from typing import Final

from partitiond.core.checks import require
from partitiond.core.numbers.poisson import poisson_quantile

MIN_ERRORS: Final = 8
"""With fewer errors of its own, a forecast takes its margin from Poisson arrivals. Chosen."""
MAX_KEPT: Final = 100_000
"""Bound on errors and seasons kept."""


class Method(enum.StrEnum):
    """Method for the middle of a forecast."""

    LAST = "last"
    """The last step repeated."""
    EWMA = "ewma"
    """Exponentially weighted mean of the steps."""
    HOLT = "holt-damped"
    """Holt's linear trend, damped: level and slope smoothed, the slope fading with the distance."""
    SEASONAL = "seasonal-naive"
    """The same step one season ago; until a season is over, the weighted mean."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForecastPolicy:
    """Settings of a forecast.

    Attributes:
        step_seconds: length of a step.
        horizon_steps: how far ahead the forecast is.
        alpha: weight of the newest step in the level, 0..1.
        beta: weight of the newest slope in the trend (Holt).
        phi: factor on the slope per step ahead (Holt), 0..1.
        season_steps: length of a season (seasonal-naive).
        quantile: share of the errors that lie below the upper end.
        errors: number of the newest errors that are kept.
    """

    method: Method = Method.EWMA
    step_seconds: float = 10.0
    horizon_steps: int = 6
    alpha: float = 0.3
    beta: float = 0.1
    phi: float = 0.9
    season_steps: int = 8640
    quantile: float = 0.9
    errors: int = 180

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.step_seconds) and self.step_seconds > 0,
            f"step_seconds must be greater than 0, got {self.step_seconds!r}.",
            "10 is usual.",
        )
        require(
            1 <= self.horizon_steps <= MAX_KEPT and 1 <= self.season_steps <= MAX_KEPT,
            f"horizon_steps and season_steps must lie between 1 and {MAX_KEPT}.",
            "The horizon is about the time an engine takes to start.",
        )
        for name in ("alpha", "beta", "phi"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must lie between 0 and 1, got {value!r}.", "")
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
        last: the newest step, in requests/s.
        level, trend: smoothed; the trend per step.
        foretold: middles that were forecast for the coming steps, the next step first.
        errors: scaled errors at the horizon, oldest first.
        season: the steps of the last season, oldest first; kept by the seasonal method only.
    """

    steps: int = 0
    last: float = 0.0
    level: float = 0.0
    trend: float = 0.0
    foretold: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    season: tuple[float, ...] = ()


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
    level, trend = _smoothed(series, rate, policy)
    season = series.season
    if policy.method is Method.SEASONAL:
        season = (*season, rate)[-policy.season_steps :]
    # After a shorter horizon was set, forecasts for later steps are of no use any more.
    errors, foretold = series.errors, series.foretold[-policy.horizon_steps :]
    if len(foretold) >= policy.horizon_steps:
        middle, *later = foretold
        errors = (*errors, (rate - middle) / _scale(middle, policy))[-policy.errors :]
        foretold = tuple(later)
    seen = dataclasses.replace(
        series,
        steps=series.steps + 1,
        last=rate,
        level=level,
        trend=trend,
        errors=errors,
        season=season,
    )
    return dataclasses.replace(seen, foretold=(*foretold, _middle(seen, policy)))


def forecast(series: Series, policy: ForecastPolicy) -> Forecast:
    """Forecast the step at the horizon; zero if no step was observed."""
    if not series.steps:
        return Forecast(0.0, 0.0)
    middle = _middle(series, policy)
    if len(series.errors) < MIN_ERRORS:
        count = poisson_quantile(middle * policy.step_seconds, policy.quantile)
        return Forecast(middle, max(middle, count / policy.step_seconds))
    margin = quantile_of(series.errors, policy.quantile) * _scale(middle, policy)
    return Forecast(middle, max(middle + margin, 0.0))


def quantile_of(values: tuple[float, ...], share: float) -> float:
    """Return the least value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _smoothed(series: Series, rate: float, policy: ForecastPolicy) -> tuple[float, float]:
    if not series.steps:
        return rate, 0.0
    damped = policy.phi * series.trend if policy.method is Method.HOLT else 0.0
    # The plain mean of all steps, until there are more steps than the weight remembers.
    alpha = max(policy.alpha, 1.0 / (series.steps + 1))
    level = alpha * rate + (1 - alpha) * (series.level + damped)
    trend = policy.beta * (level - series.level) + (1 - policy.beta) * damped
    return level, trend


def _middle(series: Series, policy: ForecastPolicy) -> float:
    ahead = policy.horizon_steps
    match policy.method:
        case Method.LAST:
            return series.last
        case Method.EWMA:
            return series.level
        case Method.HOLT:
            phi = policy.phi
            distance = ahead if phi == 1 else phi * (1 - phi**ahead) / (1 - phi)
            return max(0.0, series.level + distance * series.trend)
        case Method.SEASONAL:
            if len(series.season) < policy.season_steps:
                return series.level
            return series.season[(ahead - 1) % policy.season_steps]


def _scale(req_per_s: float, policy: ForecastPolicy) -> float:
    """Return the scatter of counts of independent arrivals around the rate, from one request up."""
    return math.sqrt(max(req_per_s, 1 / policy.step_seconds) / policy.step_seconds)
