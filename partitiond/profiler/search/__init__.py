"""Chooses the next trial: a pure function of the visits so far, the limits and the time spent.

The search keeps no state of its own: it follows from the visits. The first of these steps that has
something to measure wins.

1. Scout. A few anchors, ascending, with a short window each: around the knee of the prior if there
   is one, else every fourth batch; always the largest batch.
2. Look where the answer may be: below the anchors while the smallest may be beyond the knee; at
   the edge of what the KV cache holds; at half the largest batch while throughput grew; in wide
   gaps near the best batch; then in the gaps beside the knee until neighbours are at most 1.25x
   apart.
3. Visit again what the answer rests on (the knee, its neighbours, the best batch), in the
   opposite order of the first visits: then a drift of the machine is no effect of the batch. The
   second visit of the best batch is a fresh, longer window, which gives X*.
4. Settle: batches whose two visits disagree.

A change of the knee leads back to step 2. A prior, however wrong, chooses the anchors and nothing
else. A time limit changes how far the search gets, not its order; a new batch is begun only if its
second visit fits as well, and windows are as long as an even share of the time left allows.

Settings were compared on simulated curves, some alone (docs/decisions/0006); those that were only
chosen say so. `python -m bench.search` judges all of them together.
"""

from collections.abc import Sequence

from partitiond.profiler.search.anchors import anchors
from partitiond.profiler.search.choose import Search
from partitiond.profiler.search.rates import Rate, best_rate, combine, curve
from partitiond.profiler.search.types import (
    NextTrial,
    Prior,
    Purpose,
    SearchDone,
    SearchLimits,
    Visit,
)

__all__ = [
    "NextTrial",
    "Prior",
    "Purpose",
    "Rate",
    "SearchDone",
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
) -> NextTrial | SearchDone:
    """Return the next trial, or `SearchDone`.

    Args:
        visits: all finished trials, in the order they were made.
        limits: bounds of the search.
        elapsed_seconds: measuring time so far, including that of earlier runs.
    """
    return Search(visits, limits, elapsed_seconds).next()


def seconds_left(visits: Sequence[Visit], limits: SearchLimits, elapsed_seconds: float) -> float:
    """Estimate of the time the rest of the search takes."""
    return Search(visits, limits, elapsed_seconds).seconds_left()
