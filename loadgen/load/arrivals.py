"""Generates the arrivals of an open loop: growing offsets from the start, in seconds."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator


def constant(req_per_s: float) -> Iterator[float]:
    """Evenly spaced arrivals, without end; the first at 0.

    Raises:
        ValueError: the rate is not above 0.
    """
    _check(req_per_s)
    return (index / req_per_s for index in itertools.count())


def poisson(req_per_s: float, seed: int = 0) -> Iterator[float]:
    """Poisson arrivals (exponential gaps), without end; the same for the same seed.

    Raises:
        ValueError: the rate is not above 0.
    """
    _check(req_per_s)
    generator = random.Random(seed)  # noqa: S311 - not for secrets
    return itertools.accumulate(generator.expovariate(req_per_s) for _ in itertools.count())


def gamma(req_per_s: float, burstiness: float, seed: int = 0) -> Iterator[float]:
    """Gamma-distributed gaps of mean 1 / rate, without end; the same for the same seed.

    Args:
        req_per_s: mean rate.
        burstiness: the distribution's shape, as vLLM's `--burstiness`: 1 is Poisson, below 1 is
            burstier, above 1 more even. The gaps' standard deviation over mean is shape^-0.5.

    Raises:
        ValueError: the rate or the burstiness is not above 0.
    """
    _check(req_per_s)
    if not 0 < burstiness < math.inf:
        raise ValueError(f"the burstiness must be above 0, got {burstiness!r}")
    generator = random.Random(seed)  # noqa: S311 - not for secrets
    scale = 1 / (req_per_s * burstiness)
    return itertools.accumulate(
        generator.gammavariate(burstiness, scale) for _ in itertools.count()
    )


def ramp(
    from_req_per_s: float, to_req_per_s: float, seconds: float, seed: int = 0
) -> Iterator[float]:
    """Poisson arrivals whose rate changes linearly from one rate to the other, and then stays.

    Unit-rate arrivals are mapped through the inverse of the expected count
    a t + (b - a) t^2 / (2 T), which gives a Poisson process of exactly that rate (Cinlar, 1975).

    Args:
        from_req_per_s: rate at the start; may be 0.
        to_req_per_s: rate from `seconds` on; may be 0, and then arrivals end there.
        seconds: how long the change takes.
        seed: seed of the random gaps.

    Raises:
        ValueError: a rate is below 0, both are 0, or the time is not above 0.
    """
    low, high = from_req_per_s, to_req_per_s
    if not (0 <= low < math.inf and 0 <= high < math.inf and low + high > 0):
        raise ValueError(f"a ramp's rates must be at least 0 and not both 0, got {low!r}, {high!r}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"a ramp must last longer than 0 s, got {seconds!r}")
    generator = random.Random(seed)  # noqa: S311 - not for secrets
    # Rounding can put an arrival slightly before the arrival that it follows.
    return itertools.accumulate(_ramp(low, high, seconds, generator), max)


def _ramp(low: float, high: float, seconds: float, generator: random.Random) -> Iterator[float]:
    whole = (low + high) / 2 * seconds
    slope = (high - low) / seconds
    for count in itertools.accumulate(generator.expovariate(1.0) for _ in itertools.count()):
        if count <= whole:
            # The stable root of low t + slope t^2 / 2 = count: no division by a small slope.
            yield 2 * count / (low + math.sqrt(max(0.0, low * low + 2 * slope * count)))
        elif high > 0:
            yield seconds + (count - whole) / high
        else:
            return


def replay(offsets: Iterable[float], speed: float = 1.0) -> Iterator[float]:
    """Recorded offsets, `speed` times as fast.

    Raises:
        ValueError: the speed is not above 0.
    """
    if not 0 < speed < math.inf:
        raise ValueError(f"the speed must be above 0, got {speed!r}")
    return (offset / speed for offset in offsets)


def _check(req_per_s: float) -> None:
    if not 0 < req_per_s < math.inf:
        raise ValueError(f"the rate must be above 0 requests/s, got {req_per_s!r}")


def until(arrivals: Iterator[float], seconds: float) -> Iterator[float]:
    """The arrivals before `seconds`."""
    return itertools.takewhile(lambda at: at < seconds, arrivals)
