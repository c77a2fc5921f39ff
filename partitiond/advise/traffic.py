"""Computes what each model got between two looks at its engines: its rate, and its lengths.

Counters only grow while a process lives, so a counter that fell began again at zero with a new
process: its value is then what happened since (as in Prometheus' `increase`).

The 95 % interval of a rate takes the number of arrivals as Poisson (Byar's approximation of the
exact limits: Breslow and Day, Statistical Methods in Cancer Research II, 1987, section 2.3).
Arrivals in bursts scatter more.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.advise.lengths import LengthFigures, figures_of, quantile
from partitiond.advise.metrics import HISTOGRAMS, EngineKey, Reading, ScrapedHistogram
from partitiond.core.numbers.grouping import by_key

_Z95: Final = 1.96
"""Standard normal quantile of 95 %, two-sided."""


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedRate:
    """Requests per second with a 95 % interval."""

    low: float
    middle: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedTraffic:
    """Requests for one model, over all its engines.

    Attributes:
        model: the name under which the model is served.
        engines: its engines.
        rate: requests that arrived: ended ones, plus the increase in flight, plus refused ones.
        refused, restarts: refused requests, and engines that began again meanwhile.
        prompt, output: lengths in tokens; None if no request ended.
        ttft_p95_seconds, tpot_p95_seconds: today's, to the bucket; None if none was counted.
    """

    model: str
    engines: tuple[EngineKey, ...]
    rate: ObservedRate
    refused: float
    restarts: int
    prompt: LengthFigures | None
    output: LengthFigures | None
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None


Readings = Mapping[EngineKey, Reading]


def traffic_of(before: Readings, after: Readings, seconds: float) -> tuple[ObservedTraffic, ...]:
    """Return the traffic of each model, by name, of the engines that both looks found.

    Args:
        before, after: what the two looks found.
        seconds: time between the looks.
    """
    seen = by_key((key.model, key) for key in sorted(before.keys() & after.keys()))
    return tuple(
        _traffic(keys, [(before[key], after[key]) for key in keys], seconds)
        for keys in seen.values()
    )


def _traffic(
    keys: Sequence[EngineKey], looks: Sequence[tuple[Reading, Reading]], seconds: float
) -> ObservedTraffic:
    histograms = {
        kind: merge(_grown(a.histograms[kind], b.histograms[kind]) for a, b in looks)
        for kind in HISTOGRAMS
    }
    return ObservedTraffic(
        model=keys[0].model,
        engines=tuple(keys),
        rate=rate_of(math.fsum(_arrivals(a, b) for a, b in looks), seconds),
        refused=math.fsum(_increase(a.refused, b.refused) for a, b in looks),
        restarts=sum(b.ended < a.ended for a, b in looks),
        prompt=figures_of(histograms["prompt"]),
        output=figures_of(histograms["output"]),
        ttft_p95_seconds=quantile(histograms["ttft"], 0.95),
        tpot_p95_seconds=quantile(histograms["tpot"], 0.95),
    )


def _increase(before: float, after: float) -> float:
    return after - before if after >= before else after


def _arrivals(before: Reading, after: Reading) -> float:
    refused = _increase(before.refused, after.refused)
    if after.ended < before.ended:
        # Requests in flight died with their process; they were counted on arrival.
        return after.ended + after.in_flight + refused
    grown = after.ended - before.ended + after.in_flight - before.in_flight
    # Counters and gauges are not read at the same instant: a request may be in neither.
    return max(0.0, grown) + refused


def _grown(before: ScrapedHistogram, after: ScrapedHistogram) -> ScrapedHistogram:
    if before.bounds != after.bounds or after.count < before.count:
        return after
    counts = tuple(b - a for a, b in zip(before.counts, after.counts, strict=True))
    return ScrapedHistogram(after.bounds, counts, max(0.0, after.total - before.total))


def merge(histograms: Iterable[ScrapedHistogram]) -> ScrapedHistogram:
    """Return one histogram with the values of several.

    Engines of one model may have different bounds (they end at the context length). A value below a
    bound that its histogram lacks is counted at the histogram's next larger bound.
    """
    filled = [h for h in histograms if h.count > 0]
    bounds = tuple(sorted({bound for h in filled for bound in h.bounds}))
    counts = tuple(math.fsum(_at_most(h, bound) for h in filled) for bound in bounds)
    return ScrapedHistogram(bounds, counts, math.fsum(h.total for h in filled))


def _at_most(histogram: ScrapedHistogram, bound: float) -> float:
    """Return the number of values that are certainly at most `bound`."""
    within = [n for b, n in zip(histogram.bounds, histogram.counts, strict=True) if b <= bound]
    return within[-1] if within else 0.0


def rate_of(arrivals: float, seconds: float) -> ObservedRate:
    """Return the rate of so many arrivals; none has a low end of 0, and a high end all the same."""

    def limit(n: float, z: float) -> float:
        return float(n * max(0.0, 1 - 1 / (9 * n) + z / (3 * math.sqrt(n))) ** 3) / seconds

    low = limit(arrivals, -_Z95) if arrivals > 0 else 0.0
    return ObservedRate(low, arrivals / seconds, limit(arrivals + 1, _Z95))
