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
