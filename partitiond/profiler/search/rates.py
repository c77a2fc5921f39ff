"""Combines visits into throughput by batch, its interval, and X*."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.profiler.search.types import Purpose, Visit


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """All visits of one batch taken together."""

    batch: int
    output_tokens_per_s: float
    half_width: float
    visits: int
    disagreeing: bool


BETWEEN_WINDOWS: Final = 0.0075
"""Assumed relative standard deviation of an engine's speed from one window to the next: clocks,
caches and neighbours change between windows, and nothing inside a window shows it. Chosen so that
two windows still cover 92 to 96 % if the speed varies by 1 % (docs/profiling-method.md)."""
LEFT_OUT: Final = 1.3
"""Factor on the interval if windows were left out: a left-out window may be right. Chosen."""


def combine(rates: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Return the mean over windows and its 95 % half-width.

    Windows are weighted by their intervals, because ten seconds say less than a minute; but the
    variation between windows (`BETWEEN_WINDOWS`) is the same for all, so that a half-width that is
    small by luck does not decide alone. If windows scatter more than both explain, the interval is
    widened in proportion (the Birge ratio of physical constants), and it is never less than half
    their range. docs/profiling-method.md states what that covers.

    Of three or more windows, those that contradict the majority are left out: a window in which
    something else ran on the machine says nothing about the engine.
    """
    finite = [
        width if math.isfinite(width) else rate
        for rate, width in zip(rates, half_widths, strict=True)
    ]
    kept = _agreeing(rates, finite)
    inside = [rates[i] for i in kept]
    between = max(_between(inside, [finite[i] for i in kept]), 1e-100)
    weights = [1 / (finite[i] ** 2 + between**2) for i in kept]
    total = math.fsum(weights)
    mean = math.fsum(w * rate for w, rate in zip(weights, inside, strict=True)) / total
    # Half-widths are two standard deviations, so the sum of squares is four times chi-square.
    scatter = 4 * math.fsum(w * (rate - mean) ** 2 for w, rate in zip(weights, inside, strict=True))
    birge = math.sqrt(max(1.0, scatter / max(1, len(kept) - 1)))
    width = max(birge / math.sqrt(total), (max(inside) - min(inside)) / 2)
    return mean, width * (LEFT_OUT if len(kept) < len(rates) else 1.0)


def _between(rates: Sequence[float], widths: Sequence[float]) -> float:
    """Return the half-width by which windows differ; 0 for a single window, whose interval is its
    own.

    It is never more than the windows' own half-widths: windows of a steady engine that agree are
    believed, and if they do not agree, their scatter shows it.
    """
    if len(rates) < 2:
        return 0.0
    typical = math.sqrt(math.fsum(width**2 for width in widths) / len(widths))
    return min(2 * BETWEEN_WINDOWS * max(map(abs, rates)), typical)


def _agreeing(rates: Sequence[float], widths: Sequence[float]) -> list[int]:
    """Return indices of the windows that count."""
    everything = list(range(len(rates)))
    if len(rates) < 3:
        return everything
    groups = [
        [j for j in everything if abs(rates[i] - rates[j]) <= widths[i] + widths[j]]
        for i in everything
    ]
    largest = max(groups, key=len)
    return largest if 2 * len(largest) > len(rates) else everything


def curve(visits: Sequence[Visit]) -> tuple[Rate, ...]:
    """Return rates by batch, without the batches that the engine does not hold."""
    beyond = {v.batch for v in visits if v.beyond}
    return tuple(
        _rate(batch, [v for v in visits if v.batch == batch])
        for batch in sorted({v.batch for v in visits} - beyond)
    )


def _rate(batch: int, visits: Sequence[Visit]) -> Rate:
    rates = [v.output_tokens_per_s for v in visits]
    widths = [v.half_width for v in visits]
    mean, width = combine(rates, widths)
    apart = max(rates) - min(rates)
    return Rate(batch, mean, width, len(visits), len(visits) == 2 and apart > sum(widths))


def best_rate(visits: Sequence[Visit]) -> float | None:
    """X*: the largest throughput seen in fresh windows; None without fresh windows.

    Fresh windows are the one that was made because a batch looked best, and those after it. A fresh
    window that contradicts the majority of the batch's visits is left out here, too.

    If every fresh window was slow (the host had other work just then), X* is at least what another
    batch proves: the lower end of the interval of a batch that was visited more than once. The
    largest of lower ends is not biased upwards as the largest of means is.
    """
    fresh = fresh_rates(visits)
    if not fresh:
        return None
    measured_afresh = {rate.batch for rate in fresh}
    certain = [
        rate.output_tokens_per_s - rate.half_width
        for rate in curve(visits)
        if rate.visits > 1 and rate.batch not in measured_afresh
    ]
    return max(*(rate.output_tokens_per_s for rate in fresh), *certain, 0.0)


def fresh_rates(visits: Sequence[Visit]) -> tuple[Rate, ...]:
    """Return the rates whose largest is X*."""
    beyond = {v.batch for v in visits if v.beyond}
    chosen = {v.batch for v in visits if v.purpose is Purpose.CONFIRM} - beyond
    found = []
    for batch in sorted(chosen):
        seen = [v for v in visits if v.batch == batch]
        first = next(i for i, v in enumerate(seen) if v.purpose is Purpose.CONFIRM)
        kept = _agreeing([v.output_tokens_per_s for v in seen], [v.half_width for v in seen])
        fresh = [seen[i] for i in kept if i >= first] or seen[first:]
        found.append(_rate(batch, fresh))
    return tuple(found)
