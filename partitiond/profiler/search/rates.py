"""Visits taken together: throughput by batch, its interval, and X*."""

import dataclasses
import math
from collections.abc import Sequence

from partitiond.profiler.search.types import Purpose, Visit


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """All visits of one batch taken together."""

    batch: int
    output_tokens_per_s: float
    half_width: float
    visits: int
    disagreeing: bool


def combine(rates: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Mean over windows and its half-width.

    Windows weigh by their intervals: a glance of ten seconds says less than a minute. The
    half-width is that of a mean of independent windows, or half the range of the windows where
    that is larger: within a window batch means cannot see what changed between windows.

    Of three or more windows those that contradict the majority are left out: a window in which
    something else ran on the machine says nothing of the engine.
    """
    finite = [
        width if math.isfinite(width) else rate
        for rate, width in zip(rates, half_widths, strict=True)
    ]
    kept = _agreeing(rates, finite)
    floor = max(1e-3 * max(abs(rates[i]) for i in kept), 1e-300)
    weights = [1 / max(finite[i], floor) ** 2 for i in kept]
    total = math.fsum(weights)
    mean = math.fsum(w * rates[i] for w, i in zip(weights, kept, strict=True)) / total
    within = math.sqrt(math.fsum((w * finite[i]) ** 2 for w, i in zip(weights, kept, strict=True)))
    inside = [rates[i] for i in kept]
    return mean, max(within / total, (max(inside) - min(inside)) / 2)


def _agreeing(rates: Sequence[float], widths: Sequence[float]) -> list[int]:
    """Indices of the windows that count."""
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
    """Rates by batch, those that the engine does not hold left out."""
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
    """X*: the largest throughput seen in fresh windows; None where there were none.

    Fresh are the window that was made because a batch looked best, and what came after it. One
    that contradicts the majority of the batch's visits is left out here, too.
    """
    fresh = fresh_rates(visits)
    return max((rate.output_tokens_per_s for rate in fresh), default=None)


def fresh_rates(visits: Sequence[Visit]) -> tuple[Rate, ...]:
    """The rates that X* is the largest of."""
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
