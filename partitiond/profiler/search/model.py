"""Fits a curve to the visits so far, which tells where throughput probably flattens.

The family X(b) = top (1 + (half/b)^p)^(-1/p) holds both shapes that engines show: p = 1 is a step
time that grows with the batch, a large p the corner of a roofline. Other effects (dips, steps of
padded batches, a decline) appear as misfit; the larger it is, the less the fit is believed and the
more each measured figure. The fit only chooses trials; no figure of a profile comes from it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.profiler.search.rates import Rate

SHARPNESS: Final = (0.7, 1.0, 1.5, 2.5, 5.0, 15.0)
STEPS_PER_DOUBLING: Final = 3
LEAST_MISFIT: Final = 0.015
"""No engine follows a formula more closely. Assumed, not measured."""
FREE_PARAMETERS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class CurveFit:
    """The fitted curve.

    Attributes:
        misfit: relative standard deviation of the engine around the formula, without noise.
    """

    top: float
    half: float
    sharpness: float
    misfit: float

    def rate(self, batch: float) -> float:
        """Return X(b) by the formula, in tokens/s."""
        return self.top * _shape(batch, self.half, self.sharpness)

    def crossing(self, rate: float) -> float:
        """Return the batch at which the formula reaches `rate`; infinite if it never does."""
        if rate >= self.top:
            return math.inf
        return float(self.half / ((self.top / rate) ** self.sharpness - 1) ** (1 / self.sharpness))


@dataclasses.dataclass(frozen=True, slots=True)
class ShrunkEstimate:
    """Estimate for one batch: the measured figure drawn towards the fit by its noise."""

    batch: int
    output_tokens_per_s: float
    half_width: float


def _shape(batch: float, half: float, sharpness: float) -> float:
    # The exponent is clamped: beyond it the factor is the plain ratio, or 1, to the last digit.
    power = min(600.0, sharpness * math.log(half / batch))
    return math.exp(-math.log1p(math.exp(power)) / sharpness)


def fit(rates: Sequence[Rate]) -> CurveFit | None:
    """Return the weighted least squares on log X; None for fewer than two batches."""
    usable = [r for r in rates if r.output_tokens_per_s > 0]
    if len(usable) < 2:
        return None
    spreads = [max(r.half_width / r.output_tokens_per_s / 2, 1e-4) for r in usable]
    weights = [1 / (LEAST_MISFIT**2 + min(1.0, s) ** 2) for s in spreads]
    logs = [math.log(r.output_tokens_per_s) for r in usable]
    total = math.fsum(weights)
    least = (math.inf, 0.0, 1.0, 1.0)
    doublings = math.log2(usable[-1].batch) + 2
    for sharpness in SHARPNESS:
        for step in range(round(doublings * STEPS_PER_DOUBLING) + 1):
            half = 0.5 * 2 ** (step / STEPS_PER_DOUBLING)
            shapes = [math.log(_shape(r.batch, half, sharpness)) for r in usable]
            offsets = [y - s for y, s in zip(logs, shapes, strict=True)]
            top = math.fsum(w * o for w, o in zip(weights, offsets, strict=True)) / total
            error = math.fsum(w * (o - top) ** 2 for w, o in zip(weights, offsets, strict=True))
            if error < least[0]:
                least = (error, top, half, sharpness)
    error, top, half, sharpness = least
    found = CurveFit(math.exp(top), half, sharpness, 0.0)
    return dataclasses.replace(found, misfit=_misfit(found, usable, spreads))


def _misfit(found: CurveFit, rates: Sequence[Rate], spreads: Sequence[float]) -> float:
    """Return the scatter around the fit beyond what the noise of the points explains."""
    squares = math.fsum(math.log(r.output_tokens_per_s / found.rate(r.batch)) ** 2 for r in rates)
    noise = math.fsum(s**2 for s in spreads)
    freedom = max(1, len(rates) - FREE_PARAMETERS)
    return math.sqrt(max(LEAST_MISFIT**2, (squares - noise) / freedom))


def believed(rates: Sequence[Rate], found: CurveFit | None) -> tuple[ShrunkEstimate, ...]:
    """Average each rate with the fit, weighted by the point's noise against the misfit."""
    if found is None:
        return tuple(ShrunkEstimate(r.batch, r.output_tokens_per_s, r.half_width) for r in rates)
    beliefs = []
    for rate in rates:
        noise = (rate.half_width / 2) ** 2
        freedom = (found.misfit * rate.output_tokens_per_s) ** 2
        trust = freedom / (freedom + noise) if freedom + noise > 0 else 1.0
        mean = trust * rate.output_tokens_per_s + (1 - trust) * found.rate(rate.batch)
        beliefs.append(ShrunkEstimate(rate.batch, mean, math.sqrt(trust) * rate.half_width))
    return tuple(beliefs)
