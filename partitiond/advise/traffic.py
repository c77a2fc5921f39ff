"""Sums engines by model: the rate of requests, and its uncertainty.

The engines of one model form one stream of arrivals. The stream is cut at every look, and arrivals
in a stretch that spans several cuts are spread evenly over them.

The 95 % interval of a rate is the wider of two. Poisson: the number of arrivals is a sample of a
rate (Byar's approximation of the exact limits: Breslow and Day, Statistical Methods in Cancer
Research II, 1987, section 2.3). Batch means: arrivals in bursts scatter more than Poisson's, and
the differences between parts of the watch tell by how much
(`loadgen.results.intervals.ratio_half_width`).
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.results.intervals import BATCHES, ratio_half_width
from partitiond.advise.lengths import LengthFigures, figures_of, mean_only, quantile
from partitiond.advise.observe import EngineWindow, Interval, merge
from partitiond.core.numbers.grouping import by_key

_Z95: Final = 1.96
"""Standard normal quantile of 95 %, two-sided."""
MIN_PARTS: Final = 5
"""Fewest parts of a watch whose scatter can be estimated. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedRate:
    """Requests per second with a 95 % interval, and the data behind it.

    Attributes:
        arrivals: requests that arrived.
        seconds: how long they were watched.
    """

    low: float
    middle: float
    high: float
    arrivals: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedTraffic:
    """Requests for one model, over all its engines.

    Attributes:
        model: the name under which the model is served.
        engines: what was observed of each of its engines.
        seen: rate over the whole observation.
        prompt, output: lengths in tokens; None if no request ended.
        ttft_p95_seconds, tpot_p95_seconds: today's, to the bucket; None if none was counted.
    """

    model: str
    engines: tuple[EngineWindow, ...]
    seen: ObservedRate
    prompt: LengthFigures | None
    output: LengthFigures | None
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None

    @property
    def half_width_share(self) -> float:
        """Half-width of the offered work as a share: both rate and output length are samples.

        The intervals of the rate and of the mean output length, as shares of their middles, are
        added as independent errors.
        """
        if self.seen.middle <= 0:
            return 0.0
        rate = self.seen.high / self.seen.middle - 1
        return math.hypot(rate, self.output.half_width_share if self.output else 0.0)

    @property
    def planned(self) -> ObservedRate:
        """The rate, its interval widened by the uncertainty of the lengths."""
        rate = self.seen
        if rate.middle <= 0:
            return rate
        down = math.hypot(
            1 - rate.low / rate.middle, self.output.half_width_share if self.output else 0.0
        )
        return dataclasses.replace(
            rate,
            low=max(0.0, rate.middle * (1 - down)),
            high=rate.middle * (1 + self.half_width_share),
        )


def traffic_of(windows: Iterable[EngineWindow]) -> tuple[ObservedTraffic, ...]:
    """Return the traffic of each model, by name, from what was observed of each engine."""
    by_model = by_key((window.key.model, window) for window in windows)
    return tuple(_traffic(model, by_model[model]) for model in sorted(by_model))


def _traffic(model: str, engines: Sequence[EngineWindow]) -> ObservedTraffic:
    cells = cells_of(stretch for engine in engines for stretch in engine.stretches)
    histograms = {
        kind: merge(e.histograms[kind] for e in engines if kind in e.histograms)
        for kind in dict.fromkeys(kind for e in engines for kind in e.histograms)
    }
    ended = math.fsum(e.ended for e in engines)
    lengths = {
        kind: (figures_of(histograms[kind]) if kind in histograms else None)
        or mean_only(math.fsum(getattr(e, f"{kind}_tokens") for e in engines), ended)
        for kind in ("prompt", "output")
    }
    latency = {
        kind: quantile(histograms[kind], 0.95) if kind in histograms else math.nan
        for kind in ("ttft", "tpot")
    }
    return ObservedTraffic(
        model=model,
        engines=tuple(engines),
        seen=rate_of(cells),
        prompt=lengths["prompt"],
        output=lengths["output"],
        ttft_p95_seconds=_known(latency["ttft"]),
        tpot_p95_seconds=_known(latency["tpot"]),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- arrivals over time -----------------------------------------------------------------------


def cells_of(stretches: Iterable[Interval]) -> tuple[Interval, ...]:
    """Return the arrivals of all stretches between neighbouring looks at any engine, in order."""
    changes: dict[float, float] = collections.defaultdict(float)
    for stretch in stretches:
        if stretch.end > stretch.begin:
            per_second = stretch.arrivals / (stretch.end - stretch.begin)
            changes[stretch.begin] += per_second
            changes[stretch.end] -= per_second
    cells, rate = [], 0.0
    for begin, end in itertools.pairwise(sorted(changes)):
        rate += changes[begin]
        cells.append(Interval(begin, end, max(0.0, rate) * (end - begin)))
    return tuple(cells)


def rate_of(cells: Sequence[Interval]) -> ObservedRate:
    """Return the rate over the cells and its 95 % interval, the wider of Poisson and batch
    means."""
    seconds = math.fsum(c.end - c.begin for c in cells)
    if seconds <= 0:
        return ObservedRate(0.0, 0.0, 0.0, 0.0, 0.0)
    arrivals = math.fsum(c.arrivals for c in cells)
    middle = arrivals / seconds
    low, high = (limit / seconds for limit in poisson_limits(arrivals))
    width = _batch_half_width(cells)
    if math.isfinite(width):
        low, high = max(0.0, min(low, middle - width)), max(high, middle + width)
    return ObservedRate(low, middle, high, arrivals, seconds)


def poisson_limits(count: float) -> tuple[float, float]:
    """Return the 95 % limits of the mean of a Poisson count; 0 has only an upper limit."""

    def limit(n: float, z: float) -> float:
        return float(n * max(0.0, 1 - 1 / (9 * n) + z / (3 * math.sqrt(n))) ** 3)

    return (limit(count, -_Z95) if count > 0 else 0.0), limit(count + 1, _Z95)


def _batch_half_width(cells: Sequence[Interval]) -> float:
    """Return the 95 % half-width by batch means, in at most `BATCHES` parts."""
    parts = min(BATCHES, len(cells))
    if parts < MIN_PARTS:
        return math.inf
    borders = [len(cells) * i // parts for i in range(parts + 1)]
    groups = [cells[a:b] for a, b in itertools.pairwise(borders)]
    return ratio_half_width(
        [math.fsum(c.arrivals for c in group) for group in groups],
        [math.fsum(c.end - c.begin for c in group) for group in groups],
    )
