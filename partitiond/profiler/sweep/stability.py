"""Judges from one window whether the rate of an open loop can go on for ever. Pure.

With b places the queue is stable exactly if the places that the arrivals need on average, the rate
times the mean time in the engine (Little's law), are fewer than b. The rate is known, and the time
in the engine is a mean of many requests, so this is known far better than a trend of the queue,
which random arrivals hide for hours. But it does not show an engine that still fills up, slowly if
its throughput curve is flat. So the requests in the system, waiting ones included, must also not
grow by more than chance explains.

`python -m bench.profiler.capacity_power` prints how often the rule errs.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from loadgen.results.intervals import mean_interval

GROWTH_SIGMAS: Final = 2.5
"""Growth of the requests in the system that counts as growth, in square roots of the arrivals.
Between arrivals and departures lies at most a random walk whose steps are the arrivals. Chosen;
`python -m bench.profiler.capacity_power` shows how often that errs."""
_Z95: Final = 1.96
"""Standard normal quantile of 95 %, two-sided."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request. Times are of one clock, in seconds.

    Attributes:
        arrived: when the request was due.
        sent: when the request got its place; until then it waited.
        ended: when the request left its place; infinite if it never did.
        output_tokens: tokens that it asked for.
    """

    arrived: float
    sent: float
    ended: float
    output_tokens: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Utilisation:
    """Share of the places that a rate needs, with its 95 % half-width; stable below 1."""

    share: float
    half_width: float


def below_one(needed: Utilisation | None) -> bool:
    """Return whether the whole interval says that there are enough places."""
    return needed is not None and needed.share + needed.half_width < 1


def utilisation(
    served: Sequence[ServedRequest], req_per_s: float, batch: int, mean_output_tokens: float
) -> Utilisation | None:
    """Return the places a rate needs over the places there are; None for too few requests to tell.

    A window's requests are a little longer or shorter than the workload's. The effect of their
    lengths on their times (linear regression) is taken out of the mean and its interval.

    Args:
        served: requests that arrived in the window and ended well, in order of arrival.
        req_per_s: the rate that was offered.
        batch: number of places.
        mean_output_tokens: of the workload.
    """
    count = len(served)
    if not count:
        return None
    times = [one.ended - one.sent for one in served]
    tokens = [one.output_tokens for one in served]
    mean_time, mean_tokens = math.fsum(times) / count, math.fsum(tokens) / count
    slope = _slope(tokens, times, mean_tokens, mean_time)
    expected = mean_time + slope * (mean_output_tokens - mean_tokens)
    left = [
        time - mean_time - slope * (length - mean_tokens)
        for time, length in zip(times, tokens, strict=True)
    ]
    interval = mean_interval(left)
    if interval is None:
        return None
    half_width = (interval[1] - interval[0]) / 2
    return Utilisation(req_per_s * expected / batch, req_per_s * half_width / batch)


def _slope(
    tokens: Sequence[float], times: Sequence[float], mean_tokens: float, mean_time: float
) -> float:
    squares = math.fsum((length - mean_tokens) ** 2 for length in tokens)
    if squares < 1e-9 * max(1.0, mean_tokens**2):
        return 0.0
    products = (
        (length - mean_tokens) * (time - mean_time)
        for length, time in zip(tokens, times, strict=True)
    )
    return math.fsum(products) / squares


def grows(requests: Sequence[ServedRequest], opened: float, closed: float) -> bool:
    """Return whether the requests in the system grew by more than chance explains.

    Args:
        requests: all requests of the run, including those before the window.
        opened, closed: the window.
    """
    arrivals = sum(opened <= one.arrived < closed for one in requests)
    growth = _in_system(requests, closed) - _in_system(requests, opened)
    return growth > GROWTH_SIGMAS * math.sqrt(arrivals)


def _in_system(requests: Sequence[ServedRequest], at: float) -> int:
    return sum(one.arrived < at <= one.ended for one in requests)


def share_interval(flags: Sequence[bool]) -> tuple[float, float] | None:
    """95 % interval of a share (Wilson's); None without values.

    Late requests come together. So the interval is that of as many independent values as would be
    equally informative, by the interval of their mean.

    Args:
        flags: in order of arrival.
    """
    if not flags:
        return None
    share = sum(flags) / len(flags)
    count = _informative([float(flag) for flag in flags], share)
    middle = (share + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
    spread = math.sqrt(share * (1 - share) / count + (_Z95 / (2 * count)) ** 2)
    half_width = _Z95 * spread / (1 + _Z95**2 / count)
    return max(0.0, middle - half_width), min(1.0, middle + half_width)


def _informative(values: Sequence[float], share: float) -> float:
    """Return the number of independent values that would tell as much; never more than there
    are.
    """
    interval = mean_interval(values)
    if interval is None or share in {0.0, 1.0}:
        return len(values)
    half_width = max((interval[1] - interval[0]) / 2, 1e-9)
    return min(len(values), max(1.0, share * (1 - share) * (_Z95 / half_width) ** 2))
