"""How long an engine under load may be silent before it is taken as hung. Pure.

A request is served in E2EL seconds, prefill of the whole batch included, and meanwhile some request
gets a token with every engine step. So a silence of several E2EL is no slow step. What E2EL to
expect follows from trials of other batches by Little's law: X does not fall as the batch grows, so
latency grows at most as the batch does.
"""

from collections.abc import Iterable
from typing import Final

from partitiond.profiler.search import Prior, Visit

E2EL_FACTOR: Final = 3.0
"""Of the expected latency: lengths vary, and the host may have other work."""

PRIOR_FACTOR: Final = 10.0
"""Of a latency that only a roofline expects, from assumed figures."""

FIRST_FACTOR: Final = 10.0
"""Of the least silence, while nothing was measured: first requests also pay for what the engine
initialises lazily."""


def stall_seconds(batch: int, visits: Iterable[Visit], least_seconds: float) -> float:
    """The silence from which an engine that was measured before is taken as hung.

    Args:
        batch: requests in flight.
        visits: trials of the same engine, at least one that it survived.
        least_seconds: never shorter.
    """
    expected = min(v.e2el_seconds * max(1.0, batch / v.batch) for v in visits if not v.died)
    return max(least_seconds, E2EL_FACTOR * expected)


def first_stall_seconds(
    batch: int, output_tokens: float, prior: Prior | None, least_seconds: float
) -> float:
    """The same while nothing was measured.

    Args:
        batch: requests in flight.
        output_tokens: E[O], mean length of an answer.
        prior: what a roofline expects; None where it expects nothing.
        least_seconds: the least silence of an engine that was measured before.
    """
    expected = [
        max(1.0, batch / at) * at * output_tokens / rate for at, rate in prior or () if rate > 0
    ]
    return max(FIRST_FACTOR * least_seconds, PRIOR_FACTOR * min(expected, default=0.0))
