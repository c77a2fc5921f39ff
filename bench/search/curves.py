"""Draws throughput curves from fixed families by a seed."""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Final

CAPS: Final = (64, 128, 256, 512, 512)
KV_LIMITED_SHARE: Final = 0.25
E2EL_AT_CAP_SECONDS: Final = (3.0, 60.0)
NOISE: Final = (0.01, 0.10)
"""Relative standard deviation of a window of 10 s."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One simulated engine.

    Attributes:
        rates: X(b) for b = 1 .. max_batch, in tokens/s.
        kv_batch: largest batch that the KV cache holds.
        output_tokens: E[O]; gives latencies by Little's law.
        noise: relative standard deviation of a window of 10 s.
        drift_share, drift_period_seconds, drift_phase: slow change of the machine's speed.
        outlier_share: share of windows in which another program ran on the machine.
    """

    rates: tuple[float, ...]
    kv_batch: int
    output_tokens: float
    noise: float
    drift_share: float
    drift_period_seconds: float
    drift_phase: float
    outlier_share: float

    @property
    def max_batch(self) -> int:
        return len(self.rates)

    @property
    def usable(self) -> int:
        """Largest batch that is not KV-limited."""
        return min(self.max_batch, self.kv_batch)

    @property
    def best(self) -> float:
        """True X*."""
        return max(self.rates[: self.usable])

    def rate(self, batch: int) -> float:
        """True X(b); beyond the KV cache nothing is gained, and preemptions cost a little."""
        if batch > self.kv_batch:
            return 0.95 * self.rates[self.kv_batch - 1]
        return self.rates[batch - 1]

    def speed(self, at_seconds: float) -> float:
        """The machine's speed relative to its mean."""
        angle = 2 * math.pi * at_seconds / self.drift_period_seconds + self.drift_phase
        return 1 + self.drift_share * math.sin(angle)

    @property
    def true_knee(self) -> int:
        """Smallest batch within 5 % of the true X*."""
        return next(b for b in range(1, self.usable + 1) if self.rate(b) >= 0.95 * self.best)


Shape = Callable[[int], float]


def _saturating(half: float, sharpness: float) -> Shape:
    """(1 + (half/b)^p)^(-1/p): p = 1 is a step time a + c b, a large p a roofline's corner."""
    return lambda b: float((1 + (half / b) ** sharpness) ** (-1 / sharpness))


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def _half(draw: random.Random, cap: int) -> float:
    return _log_uniform(draw, 1.0, cap / 4)


def smooth(draw: random.Random, cap: int) -> Shape:
    return _saturating(_log_uniform(draw, 0.5, cap / 16), draw.uniform(0.9, 2.0))


def corner(draw: random.Random, cap: int) -> Shape:
    shape, slope = _saturating(_half(draw, cap), draw.uniform(6, 40)), draw.uniform(0, 0.01)
    return lambda b: shape(b) * (1 + slope * math.log2(b))


def dip(draw: random.Random, cap: int) -> Shape:
    shape = _saturating(_half(draw, cap), draw.uniform(1, 10))
    at, width = draw.uniform(1, math.log2(cap)), draw.uniform(0.15, 0.6)
    depth = draw.uniform(0.08, 0.25)
    return lambda b: shape(b) * (1 - depth * math.exp(-(((math.log2(b) - at) / width) ** 2) / 2))


def padded(draw: random.Random, cap: int) -> Shape:
    """Step time a + c x (batch padded to the next captured size)."""
    base = _log_uniform(draw, 1.0, cap / 4)
    powers = draw.random() < 0.3

    def size(b: int) -> int:
        if powers or b <= 8:
            return 1 << (b - 1).bit_length()
        return 8 * math.ceil(b / 8) if b <= 256 else 16 * math.ceil(b / 16)

    return lambda b: b / (base + size(b))


def growing(draw: random.Random, cap: int) -> Shape:
    if draw.random() < 0.5:
        return _saturating(_log_uniform(draw, cap / 8, 2 * cap), draw.uniform(0.8, 2))
    power = draw.uniform(0.1, 0.5)
    return lambda b: float(b**power)


def overshoot(draw: random.Random, cap: int) -> Shape:
    half = _half(draw, cap)
    shape, loss = _saturating(half, draw.uniform(1.5, 10)), draw.uniform(0.08, 0.4)
    at, width = math.log2(half) + draw.uniform(0.5, 3), draw.uniform(0.1, 0.8)
    return lambda b: shape(b) * (1 - loss / (1 + math.exp(-(math.log2(b) - at) / width)))


FAMILIES: Final[dict[str, Callable[[random.Random, int], Shape]]] = {
    "smooth": smooth,
    "corner": corner,
    "dip": dip,
    "padded": padded,
    "growing": growing,
    "overshoot": overshoot,
}


def draw_curve(seed: int, index: int) -> Curve:
    """Curve `index` of the collection with this seed; families take turns."""
    draw = random.Random(f"{seed}/{index}")
    family = list(FAMILIES)[index % len(FAMILIES)]
    cap = draw.choice(CAPS)
    shape = FAMILIES[family](draw, cap)
    top = _log_uniform(draw, 50, 20_000)
    rates = tuple(top * shape(b) for b in range(1, cap + 1))
    limited = draw.random() < KV_LIMITED_SHARE
    kv_batch = round(_log_uniform(draw, cap / 16, cap)) if limited else cap
    return Curve(
        rates=rates,
        kv_batch=max(2, kv_batch),
        output_tokens=_log_uniform(draw, *E2EL_AT_CAP_SECONDS) * rates[-1] / cap,
        noise=draw.uniform(*NOISE),
        drift_share=draw.uniform(0, 0.03),
        drift_period_seconds=_log_uniform(draw, 1200, 7200),
        drift_phase=draw.uniform(0, 2 * math.pi),
        outlier_share=draw.uniform(0, 0.02),
    )
