"""Derives figures from the visits so far: rates, X*, the knee, and the open decisions."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from partitiond.core.profile.frontier import knee_range, still_grows
from partitiond.core.profile.points import LimitedBy
from partitiond.profiler.search.model import CurveFit, ShrunkEstimate, believed, fit
from partitiond.profiler.search.rates import best_rate, curve, fresh_rates
from partitiond.profiler.search.types import Purpose, SearchLimits, Visit

INDIFFERENT: Final = 0.015
"""A throughput this far on the wrong side of the knee's rate loses nothing that matters: two
windows of the same trial differ by more. Chosen."""

NARROW_ENOUGH: Final = 0.03
"""Once the interval of a batch is this narrow, the machine's drift hides what a further visit would
tell. Chosen."""

NARROW_BEST: Final = 0.04
"""The same for X*. Every batch is compared with X*, but its fresh windows are long already. Kept,
although docs/decisions/0006 measured no gain."""


class SearchKnowledge:
    """Figures derived from the visits; changes nothing.

    Attributes:
        ceiling: largest batch that may be visited.
        rates: by batch, as measured.
    """

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits) -> None:
        self.visits = visits
        self.limits = limits
        self.rates = curve(visits)
        self.beyond = {v.batch for v in visits if v.beyond}
        held = max((r.batch for r in self.rates), default=0)
        # A batch that failed below one that ran is left out, but does not bound larger batches.
        self.ceiling = min([limits.max_batch, *(b - 1 for b in self.beyond if b > held)])

    @cached_property
    def fit(self) -> CurveFit | None:
        """The curve fitted to the rates, None for fewer than two."""
        return fit(self.rates)

    @cached_property
    def beliefs(self) -> tuple[ShrunkEstimate, ...]:
        """The rates, drawn towards the fit by their noise.

        They only choose trials: the profile's knee comes from the rates.
        """
        return believed(self.rates, self.fit)

    def count(self, batch: int) -> int:
        """Return the number of visits of a batch."""
        return sum(v.batch == batch for v in self.visits)

    def made(self, purpose: Purpose) -> int:
        """Return trials made for a purpose."""
        return sum(v.purpose is purpose for v in self.visits)

    @cached_property
    def top(self) -> ShrunkEstimate:
        """The batch that looks best."""
        return max(self.beliefs, key=lambda p: p.output_tokens_per_s)

    @cached_property
    def best(self) -> float:
        """X* from fresh windows; without any, the best belief."""
        return best_rate(self.visits) or self.top.output_tokens_per_s

    @cached_property
    def threshold(self) -> float:
        """The rate at which a batch is within the tolerance of X*."""
        return (1 - self.limits.tolerance) * self.best

    @cached_property
    def growing(self) -> bool:
        """Whether throughput still grows, so that no knee may be claimed."""
        return still_grows(self.rates, self.limits.tolerance)

    @cached_property
    def knee(self) -> int:
        """The batch that probably is the knee."""
        return knee_range(self.beliefs, self.best, self.limits.tolerance)[0]

    @cached_property
    def capped_by(self) -> LimitedBy:
        """The reason why the batch grew no further; meaningful only if throughput still grew."""
        if self.beyond:
            return LimitedBy.MEMORY
        largest = max((v.batch for v in self.visits), default=0)
        return LimitedBy.CAP if largest >= self.limits.max_batch else LimitedBy.TIME

    def relevant(self) -> list[int]:
        """Return batches the answer rests on: knee and neighbours, or the last doubling; and the
        top.
        """
        batches = [r.batch for r in self.rates]
        if self.growing:
            half = [b for b in batches if 2 * b <= batches[-1]]
            return sorted({*half[-1:], batches[-1], self.top.batch})
        at = batches.index(self.knee)
        return sorted({*batches[max(0, at - 1) : at + 2], self.top.batch})

    def owed(self) -> list[int]:
        """Return relevant batches without a second visit, in the reverse order of their first
        visits.

        Second visits in the opposite order of the first give every batch the same mean time, so
        that a steady drift of the machine is no effect of the batch.
        """
        first: dict[int, int] = {}
        for index, visit in enumerate(self.visits):
            first.setdefault(visit.batch, index)
        once = [b for b in self.relevant() if self.count(b) == 1]
        return sorted(once, key=lambda b: -first[b])

    def disagreeing(self) -> list[int]:
        """Return batches whose two visits contradict each other, nearest to the knee first."""
        apart = [r.batch for r in self.rates if r.disagreeing]
        return sorted(apart, key=lambda b: abs(math.log(b / self.knee))) if apart else []

    def open_decisions(self) -> list[tuple[int, float]]:
        """Return batches whose intervals leave a decision open, with the probability of a yes."""
        return self._open_growth() if self.growing else self._open_knee()

    def _open_growth(self) -> list[tuple[int, float]]:
        """Return the open decision: did throughput grow beyond the tolerance over the last
        doubling?
        """
        last = self.rates[-1]
        before = [r for r in self.rates if 2 * r.batch <= last.batch]
        if not before:
            return []
        half = max(before, key=lambda r: r.output_tokens_per_s)
        shares = {r.batch: r.half_width / r.output_tokens_per_s for r in (half, last)}
        growth = last.output_tokens_per_s / half.output_tokens_per_s - 1
        blur = math.hypot(*shares.values()) / 2
        yes = normal((growth - self.limits.tolerance) / max(blur, 1e-9))
        return [(batch, yes) for batch, share in shares.items() if share > NARROW_ENOUGH]

    def _open_knee(self) -> list[tuple[int, float]]:
        """Return the open decisions: which batches, up to where the knee may be, reach its rate?"""
        measured = knee_range(self.rates, self.best, self.limits.tolerance)[0]
        found = []
        for rate in self.rates:
            x, width = rate.output_tokens_per_s, rate.half_width
            if rate.batch > max(measured, self.knee) or width <= NARROW_ENOUGH * x:
                continue
            side = 1 if x < self.threshold else -1
            edge = self.threshold * (1 + side * INDIFFERENT)
            found.append((rate.batch, normal((x - edge) / max(width / 2, 1e-12))))
        return found

    def wide_best(self) -> int | None:
        """Return the batch that X* comes from, while its interval is wide."""
        for rate in fresh_rates(self.visits):
            at_best = rate.output_tokens_per_s == best_rate(self.visits)
            if at_best and rate.half_width > NARROW_BEST * rate.output_tokens_per_s:
                return rate.batch
        return None


def normal(z: float) -> float:
    """Return the distribution function of the standard normal."""
    return (1 + math.erf(z / math.sqrt(2))) / 2


def entropy(share: float) -> float:
    """Return the entropy of a yes or no with this probability, in bits."""
    if not 0 < share < 1:
        return 0.0
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)
