"""Which trial comes next: a pure function of the visits so far, the limits and the time spent.

The search does not remember where it is: the visits tell, so it goes on from any checkpoint. The
first of these that has something to measure wins.

1. Scout. A few anchors, ascending, a glance each: around the knee of the prior where there is
   one, else every fourth batch; the largest batch always.
2. Look where the answer may hide: below the anchors while the smallest may be beyond the knee; at
   the edge of what the KV cache holds; at half the largest batch while throughput grew; into wide
   gaps near the best batch; then into the gaps beside the knee until neighbours are at most 1.25x
   apart. A fitted curve says where the knee probably is, and how narrow an interval tells.
3. Second visits of what the answer rests on (the knee, its neighbours, the best batch), in the
   opposite order of the first: a drift of the machine is then no effect of the batch. The second
   visit of the best batch is a fresh, longer window: X* is what that says.
4. Settle: batches whose two visits disagree; decisions that the intervals leave open, the one
   that loses most doubt per second first; X* while its own interval is wide.

A change of the knee leads back to step 2. A prior, however wrong, chooses the anchors and nothing
else. A time limit changes how far it gets, not the order; a new batch is begun only if its second
visit fits, too, and windows are as long as an even share of the time left allows.
"""

from collections.abc import Sequence

from partitiond.profiler.search.anchors import anchors
from partitiond.profiler.search.choose import (
    MAX_CONFIRMED,
    MAX_VISITS_PER_BATCH,
    Search,
)
from partitiond.profiler.search.rates import Rate, best_rate, combine, curve
from partitiond.profiler.search.types import (
    Done,
    NextTrial,
    Prior,
    Purpose,
    SearchLimits,
    Visit,
)

__all__ = [
    "MAX_CONFIRMED",
    "MAX_VISITS_PER_BATCH",
    "Done",
    "NextTrial",
    "Prior",
    "Purpose",
    "Rate",
    "SearchLimits",
    "Visit",
    "anchors",
    "best_rate",
    "combine",
    "curve",
    "propose",
    "seconds_left",
]


def propose(
    visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float
) -> NextTrial | Done:
    """The next trial, or `Done`.

    Args:
        visits: all finished trials, in the order they were made.
        limits: what bounds the search.
        elapsed_seconds: measuring time so far, that of earlier runs included.
    """
    return Search(visits, limits, elapsed_seconds).next()


def seconds_left(visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float) -> float:
    """Estimate of the time the rest of the search takes."""
    return Search(visits, limits, elapsed_seconds).seconds_left()
