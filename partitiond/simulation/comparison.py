"""Promised against what came out, figure by figure: for replays and for measurements alike.

At full load a plan's throughput, TTFT and TPOT are predictions of exactly this, so errors count
both ways. At the demand they are what is to be kept: more latency or fewer good requests than
promised is an error, less and more are not.
"""

import dataclasses
import enum
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from partitiond.simulation.outcome import Outcome
from partitiond.simulation.promise import Promise
from partitiond.simulation.replay import Load, Replay

TOLERANCE: Final = 0.15
"""A figure that is further off than this is a miss."""


class Figure(enum.StrEnum):
    """What is compared."""

    THROUGHPUT = "throughput"
    """Output tokens/s."""
    TTFT = "TTFT p95"
    TPOT = "TPOT p95"
    SERVED = "served"
    """Good requests by all arrivals, against the SLO's quantile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one model.

    Attributes:
        promised, got: in tokens/s, seconds, or as a share.
        naive: what would be promised if sharing a device cost nothing; None where that says
            nothing of its own.
    """

    model: str
    load: Load
    figure: Figure
    promised: float
    got: float
    naive: float | None = None

    @property
    def error(self) -> float:
        """(got - promised) / promised; at the demand 0 where the promise was kept."""
        return self._off(self.promised)

    @property
    def naive_error(self) -> float | None:
        """The same for the prediction without a model of sharing."""
        return None if self.naive is None else self._off(self.naive)

    @property
    def is_miss(self) -> bool:
        """Whether it is off by more than `TOLERANCE`; the served share: whether it fell short."""
        limit = 0.0 if self.figure is Figure.SERVED else TOLERANCE
        return abs(self.error) > limit + 1e-9

    def _off(self, promised: float) -> float:
        off = self.got / promised - 1 if promised > 0 else 0.0
        if self.load is Load.FULL:
            return off
        return min(0.0, off) if self.figure is Figure.SERVED else max(0.0, off)


def differences(
    promise: Promise, outcome: Outcome, load: Load, quantile: float
) -> tuple[Difference, ...]:
    """Every figure that the outcome has; none for a model to which nothing came.

    Args:
        promise: what the plan says of the model.
        outcome: what came out, in a replay or in a measurement.
        load: under which load.
        quantile: share of good requests that the SLO asks for.
    """
    if not outcome.arrivals or outcome.attainment is None:
        return ()
    rate, ttft, tpot = promise.alone
    found: list[tuple[Figure, float, float | None, float | None]] = []
    if load is Load.FULL:
        found.append(
            (Figure.THROUGHPUT, promise.output_tokens_per_s, outcome.output_tokens_per_s, rate)
        )
    else:
        found.append((Figure.SERVED, quantile, outcome.attainment, None))
    found += [
        (Figure.TTFT, promise.ttft_p95_seconds, outcome.ttft_p95_seconds, ttft),
        (Figure.TPOT, promise.tpot_p95_seconds, outcome.tpot_p95_seconds, tpot),
    ]
    return tuple(
        Difference(promise.model, load, figure, promised, got, naive)
        for figure, promised, got, naive in found
        if got is not None
    )


def differences_of(replay: Replay) -> tuple[Difference, ...]:
    """Of all models of a replay."""
    return tuple(
        difference
        for one in replay.models
        for difference in differences(one.promise, one.outcome, replay.load, one.quantile)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The errors of one figure.

    Attributes:
        median, worst: absolute errors.
        naive_median, naive_worst: of the prediction without a model of sharing; None without.
        misses: how many are off by more than `TOLERANCE`.
    """

    count: int
    median: float
    worst: float
    misses: int
    naive_median: float | None = None
    naive_worst: float | None = None


def summarise(found: Iterable[Difference]) -> Summary | None:
    """Median and worst of these differences; None without any."""
    those = list(found)
    if not those:
        return None
    errors = [abs(one.error) for one in those]
    naive = [abs(one.naive_error) for one in those if one.naive_error is not None]
    return Summary(
        count=len(those),
        median=statistics.median(errors),
        worst=max(errors),
        misses=sum(one.is_miss for one in those),
        naive_median=statistics.median(naive) if naive else None,
        naive_worst=max(naive, default=None),
    )


def by_figure(
    found: Sequence[Difference],
) -> dict[tuple[Load, Figure], Summary]:
    """A summary for each load and figure that there are."""
    keys = dict.fromkeys((one.load, one.figure) for one in found)
    summaries = {
        key: summarise(one for one in found if (one.load, one.figure) == key) for key in keys
    }
    return {key: summary for key, summary in summaries.items() if summary is not None}
