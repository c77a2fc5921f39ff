"""Measures as the paper does: all requests at once, throughput by the time the last one ends.

The throughput contains ramp and drain, when the batch is not full: it is below the steady state and
depends on the number of requests. It is reported apart, to be compared with the paper.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

from loadgen import Outcome, Record, open_loop
from loadgen import Workload as Load
from partitiond.core.errors import EngineError
from partitiond.core.profile.confirmed import PaperMode
from partitiond.profiler.sweep.bench import Running
from partitiond.profiler.sweep.trial import REQUEST_SECONDS

AT_ONCE_SECONDS: Final = 0.001
"""Every arrival is at 0; the loop needs a window that contains it."""


async def run_paper_mode(engine: Running, load: Load, requests: int) -> PaperMode:
    """Send all requests at once; those beyond the engine's limit wait inside it.

    Raises:
        EngineError: not all requests ended well, so there is no makespan.
    """
    with engine.address() as address:
        result = await open_loop(
            address,
            load,
            arrivals=itertools.repeat(0.0, requests),
            seconds=AT_ONCE_SECONDS,
            timeout_seconds=REQUEST_SECONDS,
            max_connections=requests,
        )
    return summarise(result.records, engine.handle.launch.max_num_seqs)


def summarise(records: Sequence[Record], batch: int) -> PaperMode:
    """Compute throughput by the makespan, and latency as the mean over all requests.

    Raises:
        EngineError: not all requests ended well.
    """
    ended = [(r.end, r.e2el) for r in records if r.outcome is Outcome.OK]
    ends = [end for end, _ in ended if end is not None]
    latencies = [e2el for _, e2el in ended if e2el is not None]
    starts = [r.scheduled for r in records if r.scheduled is not None]
    if not records or len(ends) < len(records):
        raise EngineError(
            f"{len(records) - len(ends)} of {len(records)} requests sent at once failed.",
            hint="See the engine's log.",
        )
    makespan = max(ends) - min(starts)
    return PaperMode(
        requests=len(records),
        batch=batch,
        req_per_s=len(records) / makespan,
        output_tokens_per_s=sum(r.output_tokens for r in records) / makespan,
        mean_e2el_seconds=math.fsum(latencies) / len(latencies),
    )
