"""Computes what each engine did between its first and its last reading.

Counters only grow while a process lives, so a counter that fell began again at zero with a new
process: its value is then what happened since (as in Prometheus' `increase`). A failed look only
makes the stretch around it longer.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from partitiond.advise.readings import EMPTY, EngineKey, Reading, ScrapedHistogram


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """Time between two looks at one engine.

    Attributes:
        begin, end: seconds since the observation began.
        arrivals: requests that arrived: ended ones, plus the increase in flight, plus refused ones.
    """

    begin: float
    end: float
    arrivals: float


@dataclasses.dataclass(frozen=True, slots=True)
class EngineWindow:
    """What one engine did during the observation.

    Attributes:
        key: identity of the engine.
        stretches: between neighbouring looks, in order.
        ended, refused: numbers of requests.
        prompt_tokens, output_tokens: tokens of requests.
        restarts: restarts of the process during the observation.
        histograms: growth during the observation, by the keys of `readings.HISTOGRAMS`.
    """

    key: EngineKey
    stretches: tuple[Interval, ...]
    ended: float
    refused: float
    prompt_tokens: float
    output_tokens: float
    restarts: int
    histograms: Mapping[str, ScrapedHistogram]


def observe(readings: Mapping[EngineKey, Sequence[Reading]]) -> tuple[EngineWindow, ...]:
    """Return what each engine did, from its readings in the order of time.

    Engines that were seen only once are left out: one look covers no time.
    """
    return tuple(_window(key, found) for key, found in sorted(readings.items()) if len(found) > 1)


def keep(readings: list[Reading], new: Reading) -> None:
    """Add a reading to those of its engine, and drop histograms that will not be used.

    Histograms are most of a reading, and only their growth between the first and the last look at
    a process counts, so histograms of looks in between are dropped. Thus a thousand engines watched
    for an hour take some hundred megabytes, not gigabytes.
    """
    if len(readings) > 1:
        before, last = readings[-2:]
        if not (_restarted(before, last) or _restarted(last, new)):
            readings[-1] = dataclasses.replace(last, histograms={})
    readings.append(new)


def _window(key: EngineKey, readings: Sequence[Reading]) -> EngineWindow:
    pairs = list(itertools.pairwise(readings))

    def grown(name: str) -> float:
        return math.fsum(increase(getattr(a, name), getattr(b, name)) for a, b in pairs)

    return EngineWindow(
        key=key,
        stretches=tuple(Interval(a.at_seconds, b.at_seconds, _arrivals(a, b)) for a, b in pairs),
        ended=grown("ended"),
        refused=grown("refused"),
        prompt_tokens=grown("prompt_tokens"),
        output_tokens=grown("output_tokens"),
        restarts=sum(_restarted(a, b) for a, b in pairs),
        histograms={
            kind: merge([_grown_histogram(readings, kind)])
            for kind in dict.fromkeys(kind for r in readings for kind in r.histograms)
        },
    )


def increase(before: float, after: float) -> float:
    """Return by how much a counter grew; a counter that fell began again at zero."""
    return after - before if after >= before else after


def _restarted(before: Reading, after: Reading) -> bool:
    return after.ended < before.ended or after.output_tokens < before.output_tokens


def _arrivals(before: Reading, after: Reading) -> float:
    refused = increase(before.refused, after.refused)
    if _restarted(before, after):
        # Requests in flight died with their process; they were counted on arrival.
        return after.ended + after.in_flight + refused
    grown = after.ended - before.ended + after.in_flight - before.in_flight
    # Counters and gauges are not read at the same instant: a request may be in neither.
    return max(0.0, grown) + refused


def _grown_histogram(readings: Iterable[Reading], kind: str) -> ScrapedHistogram:
    told = [r.histograms[kind] for r in readings if kind in r.histograms]
    return merge(_histogram_increase(a, b) for a, b in itertools.pairwise(told))


def _histogram_increase(before: ScrapedHistogram, after: ScrapedHistogram) -> ScrapedHistogram:
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
    if not filled:
        return EMPTY
    bounds = tuple(sorted({bound for h in filled for bound in h.bounds}))
    counts = tuple(math.fsum(_at_most(h, bound) for h in filled) for bound in bounds)
    return ScrapedHistogram(bounds, counts, math.fsum(h.total for h in filled))


def _at_most(histogram: ScrapedHistogram, bound: float) -> float:
    """Return the number of values that are certainly at most `bound`."""
    within = [n for b, n in zip(histogram.bounds, histogram.counts, strict=True) if b <= bound]
    return within[-1] if within else 0.0
