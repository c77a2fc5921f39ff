"""When requests arrive in an open loop: offsets from the start, in seconds, growing."""

import itertools
import random
from collections.abc import Iterator


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


def _check(req_per_s: float) -> None:
    if not req_per_s > 0:
        raise ValueError(f"the rate must be above 0 requests/s, got {req_per_s!r}")


def until(arrivals: Iterator[float], seconds: float) -> Iterator[float]:
    """The arrivals before `seconds`."""
    for at in arrivals:
        if at >= seconds:
            return
        yield at
