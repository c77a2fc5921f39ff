"""Compares promise and outcome, figure by figure, for replays and for measurements alike.

At full load a plan's throughput, TTFT and TPOT predict exactly this situation, so errors in both
directions count. At the demand they are bounds: more latency or fewer good requests than promised
is an error, less latency and more good requests are not.
"""

import dataclasses
import enum
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from partitiond.simulated.replay.outcome import Outcome
from partitiond.simulated.replay.promise import Promise
from partitiond.simulated.replay.replay import OfferedLoad, Replay

TOLERANCE: Final = 0.15
"""A figure with a larger relative error is a miss. Chosen, not measured."""


class ComparedFigure(enum.StrEnum):
    """The figures that are compared."""

    THROUGHPUT = "throughput"
    """Output tokens/s."""
    TTFT = "TTFT p95"
    TPOT = "TPOT p95"
    SERVED = "served"
    """Good requests divided by all arrivals, compared with the SLO's quantile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one model.

    Attributes:
        promised, got: in tokens/s, seconds, or as a share.
        naive: promise if sharing a device cost nothing; None if there is no such prediction.
    """

    model: str
    load: OfferedLoad
    figure: ComparedFigure
    promised: float
    got: float
    naive: float | None = None

    @property
    def error(self) -> float:
        """(got - promised) / promised; at the demand 0 if the promise was kept."""
        return self._off(self.promised)

    @property
    def naive_error(self) -> float | None:
        """The same error of the prediction without a model of sharing."""
        return None if self.naive is None else self._off(self.naive)

    @property
    def is_miss(self) -> bool:
        """Whether the error exceeds `TOLERANCE`; for the served share, whether it fell short."""
        limit = 0.0 if self.figure is ComparedFigure.SERVED else TOLERANCE
        return abs(self.error) > limit + 1e-9

    def _off(self, promised: float) -> float:
        off = self.got / promised - 1 if promised > 0 else 0.0
        if self.load is OfferedLoad.FULL:
            return off
        return min(0.0, off) if self.figure is ComparedFigure.SERVED else max(0.0, off)


def differences(
    promise: Promise, outcome: Outcome, load: OfferedLoad, quantile: float
) -> tuple[Difference, ...]:
    """Return every figure that the outcome has; none for a model without arrivals.

    Args:
        promise: the plan's figures for the model.
        outcome: the outcome in a replay or in a measurement.
        load: the load of the outcome.
        quantile: share of good requests that the SLO asks for.
    """
    if not outcome.arrivals or outcome.attainment is None:
        return ()
    rate, ttft, tpot = promise.alone
    found: list[tuple[ComparedFigure, float, float | None, float | None]] = []
    if load is OfferedLoad.FULL:
        found.append(
            (
                ComparedFigure.THROUGHPUT,
                promise.output_tokens_per_s,
                outcome.output_tokens_per_s,
                rate,
            )
        )
    else:
        found.append((ComparedFigure.SERVED, quantile, outcome.attainment, None))
    found += [
        (ComparedFigure.TTFT, promise.ttft_p95_seconds, outcome.ttft_p95_seconds, ttft),
        (ComparedFigure.TPOT, promise.tpot_p95_seconds, outcome.tpot_p95_seconds, tpot),
    ]
    return tuple(
        Difference(promise.model, load, figure, promised, got, naive)
        for figure, promised, got, naive in found
        if got is not None
    )


def differences_of(replay: Replay) -> tuple[Difference, ...]:
    """Return the differences of all models of a replay."""
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
        naive_median, naive_worst: those of the prediction without a model of sharing, or None.
        misses: number of figures that are misses.
    """

    count: int
    median: float
    worst: float
    misses: int
    naive_median: float | None = None
    naive_worst: float | None = None


def summarise(found: Iterable[Difference]) -> Summary | None:
    """Return median and worst of these differences; None without any."""
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
) -> dict[tuple[OfferedLoad, ComparedFigure], Summary]:
    """Return a summary for each load and figure that occur."""
    keys = dict.fromkeys((one.load, one.figure) for one in found)
    summaries = {
        key: summarise(one for one in found if (one.load, one.figure) == key) for key in keys
    }
    return {key: summary for key, summary in summaries.items() if summary is not None}
