"""Derives figures from the visits so far: rates, X* and the knee."""

import math
from collections.abc import Sequence
from functools import cached_property

from partitiond.core.profile.knee import knee_range, still_grows
from partitiond.core.profile.points import LimitedBy
from partitiond.profiler.search.rates import Rate, best_rate, curve
from partitiond.profiler.search.types import Purpose, SearchLimits, Visit


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

    def count(self, batch: int) -> int:
        """Return the number of visits of a batch."""
        return sum(v.batch == batch for v in self.visits)

    def made(self, purpose: Purpose) -> int:
        """Return trials made for a purpose."""
        return sum(v.purpose is purpose for v in self.visits)

    @cached_property
    def top(self) -> Rate:
        """The batch that looks best."""
        return max(self.rates, key=lambda p: p.output_tokens_per_s)

    @cached_property
    def best(self) -> float:
        """X* from fresh windows; without any, the best rate."""
        return best_rate(self.visits) or self.top.output_tokens_per_s

    @cached_property
    def growing(self) -> bool:
        """Whether throughput still grows, so that no knee may be claimed."""
        return still_grows(self.rates, self.limits.tolerance)

    @cached_property
    def knee(self) -> int:
        """The batch that probably is the knee."""
        return knee_range(self.rates, self.best, self.limits.tolerance)[0]

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
