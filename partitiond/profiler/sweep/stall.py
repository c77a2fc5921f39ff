"""Computes how long an engine under load may be silent before it counts as hung. Pure.

A request is served in E2EL seconds, including the prefill of the whole batch, and meanwhile every
engine step gives some request a token. So a silence of several E2EL is not a slow step. The E2EL to
expect follows from trials of other batches by Little's law: X does not fall as the batch grows, so
latency grows at most in proportion to the batch.
"""

from collections.abc import Iterable
from typing import Final

from partitiond.profiler.search import Prior, Visit

E2EL_FACTOR: Final = 3.0
"""Factor on the expected latency: lengths vary, and the host may have other work. Chosen."""

PRIOR_FACTOR: Final = 10.0
"""Factor on a latency that only a roofline predicts, from assumed figures. Chosen, not measured."""

FIRST_FACTOR: Final = 10.0
"""Factor on the least silence while nothing was measured: the first requests also pay for what the
engine initialises lazily. Chosen."""


def stall_seconds(batch: int, visits: Iterable[Visit], least_seconds: float) -> float:
    """Return the silence after which an engine that was measured before counts as hung.

    Args:
        batch: requests in flight.
        visits: trials of the same engine, which survived at least one of them.
        least_seconds: the result is never shorter.
    """
    expected = min(v.e2el_seconds * max(1.0, batch / v.batch) for v in visits if not v.died)
    return max(least_seconds, E2EL_FACTOR * expected)


def first_stall_seconds(
    batch: int, output_tokens: float, prior: Prior | None, least_seconds: float
) -> float:
    """Return the silence after which an engine that was not measured yet counts as hung.

    Args:
        batch: requests in flight.
        output_tokens: E[O], mean length of an answer.
        prior: the throughput that a roofline predicts; None without a prediction.
        least_seconds: the least silence of an engine that was measured before.
    """
    expected = [
        max(1.0, batch / at) * at * output_tokens / rate for at, rate in prior or () if rate > 0
    ]
    return max(FIRST_FACTOR * least_seconds, PRIOR_FACTOR * min(expected, default=0.0))
