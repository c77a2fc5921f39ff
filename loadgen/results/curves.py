"""Computes the curves of a report from records: rates and counts over time, distributions."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from loadgen.results.records import Record
from loadgen.results.statistics import percentile
from loadgen.results.svg import Point

TIME_BINS: Final = 120
HISTOGRAM_BINS: Final = 60
_CDF_SHARES: Final = (
    *(i / 200 for i in range(199)), 0.9925, 0.995, 0.9975, 0.999, 0.9995, 1.0,
)  # fmt: skip


def span(records: Iterable[Record]) -> tuple[float, float] | None:
    """Start of the first request and end of the last one; None if no request was sent."""
    starts = [r.start for r in records if r.start is not None]
    ends = [r.end if r.end is not None else r.start for r in records]
    known = [end for end in ends if end is not None]
    return (min(starts), max(known)) if starts and known else None


def tokens_over_time(records: Sequence[Record], opened: float) -> list[Point]:
    """Output tokens/s in equal parts of the run; time in seconds from the window's opening."""
    borders = span(records)
    if borders is None or borders[1] <= borders[0]:
        return []
    low, high = borders
    width = max(1.0, (high - low) / TIME_BINS)
    counts = [0] * max(1, math.floor((high - low) / width))
    for record in records:
        for at, tokens in zip(record.chunk_times, record.chunk_tokens, strict=True):
            # The remainder after the last whole part is left out: it is shorter than a part.
            index = int((at - low) / width)
            if index < len(counts):
                counts[index] += tokens
    return [(low - opened + (i + 0.5) * width, count / width) for i, count in enumerate(counts)]


def in_flight_over_time(records: Sequence[Record], opened: float) -> list[Point]:
    """Requests that were due and had not ended, at each change, thinned to what a chart shows."""
    changes = [(r.start, 1) for r in records if r.start is not None]
    changes += [(r.end, -1) for r in records if r.end is not None and r.start is not None]
    changes.sort()
    counts = itertools.accumulate(change for _, change in changes)
    points = [(at - opened, float(c)) for (at, _), c in zip(changes, counts, strict=True)]
    every = max(1, len(points) // (8 * TIME_BINS))
    return points[::every]


def distribution(values: Sequence[float]) -> list[Point]:
    """The share of values at or below each of some two hundred percentiles."""
    ordered = sorted(values)
    return [(percentile(ordered, share), share) for share in _CDF_SHARES] if ordered else []


def histogram_range(samples: Iterable[Sequence[float]]) -> tuple[float, float] | None:
    """Common borders of several histograms: from the least value to the largest 99.5 % quantile.

    None without values. Shares are comparable only where the parts are the same.
    """
    known = [sorted(values) for values in samples if values]
    if not known:
        return None
    low = min(ordered[0] for ordered in known)
    high = max(percentile(ordered, 0.995) for ordered in known)
    return low, high if high > low else low + max(abs(low) * 0.01, 1e-6)


def histogram(values: Sequence[float], low: float, high: float) -> list[Point]:
    """Shares of the values in equal parts of [low, high], as a step line.

    The last part holds everything beyond it, so that one straggler does not flatten the rest.
    """
    if not values:
        return []
    width = (high - low) / HISTOGRAM_BINS
    counts = [0] * HISTOGRAM_BINS
    for value in values:
        counts[max(0, min(HISTOGRAM_BINS - 1, int((value - low) / width)))] += 1
    points = [(low + i * width, count / len(values)) for i, count in enumerate(counts)]
    return [(low, 0.0), *points, (high, points[-1][1]), (high, 0.0)]
