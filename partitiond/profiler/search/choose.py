"""Chooses the next trial. The package's docstring names the steps."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from partitiond.core.profile.knee import NEIGHBOUR_RATIO
from partitiond.profiler.search.anchors import ANCHOR_RATIO, anchors, roundest
from partitiond.profiler.search.knowledge import SearchKnowledge
from partitiond.profiler.search.rates import best_rate
from partitiond.profiler.search.trial_windows import Costs
from partitiond.profiler.search.types import NextTrial, Purpose, SearchDone, SearchLimits, Visit

MAX_CONFIRMED: Final = 2
"""A second best batch may overtake the first once the first was measured afresh; a third will not
differ in any way that matters."""

MAX_REFINED: Final = 7
"""First looks around the knee: three close a gap of 4x on each side of it; if noise keeps moving
the knee, more looks only move it further. Chosen."""

CONFIRM_AGAIN: Final = 0.01
"""A batch must look this much better than X* for a fresh window of its own. Chosen."""

SCOUT_SHARE: Final = 0.10
"""Wanted interval of a first look: narrow enough to tell 60 % of X* from 100 %. Chosen."""

WIDE_GAP: Final = 2.1
WORTH_A_LOOK: Final = 0.80
"""Between two batches more than a doubling apart that both give this share of X*, a better batch
or an earlier knee may hide; engines that dip or pad differ by less. Both are chosen."""

CLEARLY_BELOW: Final = 0.85
"""The smallest batch must be below this share of X*, or the knee may lie below it. Chosen."""

EDGE_RATIO: Final = 1.1
"""How closely the largest batch that the KV cache holds is located. Chosen."""

HALF_AS_LARGE: Final = 2.6
"""The growth over the last doubling is measured, not spread over a gap wider than this. Chosen."""

TIME_OVERRUN: Final = 1.25
"""Promised second visits are made even a little beyond the time limit. Chosen, not measured."""

TYPICAL_TRIALS: Final = 10
"""Trials after the anchors, about the average over the curves of `python -m bench.search`."""

Wanted = tuple[int, Purpose, float | None]
"""Batch, purpose, and the wanted interval as a share."""


class Search:
    """Looks at the state once. Holds derived figures, changes nothing."""

    def __init__(self, visits: Sequence[Visit], limits: SearchLimits, elapsed: float) -> None:
        self._known = SearchKnowledge(visits, limits)
        self._limits = limits
        self._seen = {v.batch for v in visits}
        limit = limits.time_limit_seconds
        self._left = math.inf if limit is None else limit - elapsed
        self._overrun_left = math.inf if limit is None else limit * TIME_OVERRUN - elapsed
        self._skipped = False

    @cached_property
    def _costs(self) -> Costs:
        # Made on demand: the time left, asked for a few times a second, does not need it.
        return Costs(self._known.visits, self._limits)

    def next(self) -> NextTrial | SearchDone:
        """Return the next trial, or `SearchDone`."""
        wanted = self._scout()
        if wanted is None and self._known.rates:
            wanted = self._propose_unseen() or self._settle()
        if wanted is None:
            return SearchDone(self._known.capped_by, complete=not self._skipped)
        batch, purpose, share = wanted
        return self._costs.trial(batch, purpose, share, self._left, self._trials_left())

    # First looks

    def _scout(self) -> Wanted | None:
        """Return the next anchor, ascending, if it fits in the time; if the engine holds none of
        the anchors, a smaller batch.
        """
        for anchor in self._unseen_anchors():
            for batch in self._steps_towards(anchor):
                if not self._seen or self._affordable_growth(batch):
                    return batch, Purpose.UP, SCOUT_SHARE
            self._skipped = True
            return None
        if not self._known.rates and self._known.ceiling >= 1:
            return max(1, self._known.ceiling // ANCHOR_RATIO), Purpose.UP, SCOUT_SHARE
        return None

    def _unseen_anchors(self) -> list[int]:
        if self._known.ceiling < 1:
            return []
        return [
            b for b in anchors(self._limits) if b not in self._seen and b <= self._known.ceiling
        ]

    def _steps_towards(self, anchor: int) -> list[int]:
        """Return the anchor, then a batch on the way to it in case the anchor is too expensive."""
        largest = max(self._seen, default=0)
        if anchor <= 2 * largest or not self._seen:
            return [anchor]
        return [anchor, 2 * largest]

    def _affordable_growth(self, batch: int) -> bool:
        """Return whether this batch twice, and the two before it again, fit in the time left."""
        promised = math.fsum(self._costs.least(b) for b in sorted(self._seen)[-2:])
        return 2 * self._costs.least(batch) + promised <= self._left

    def _propose_unseen(self) -> Wanted | None:
        """Return a batch not seen yet in which the answer may lie, if there is time for it."""
        promised = math.fsum(self._costs.least(b) for b in self._known.owed())
        steps = (self._lower, self._edge, self._doubling, self._around, self._inside)
        for step in steps:
            wanted = step()
            if wanted is None or wanted[0] in self._seen or wanted[0] > self._known.ceiling:
                continue
            if promised + 2 * self._costs.least(wanted[0]) <= self._left:
                return wanted
            self._skipped = True
            return None
        return None

    def _lower(self) -> Wanted | None:
        """Return a batch below all anchors, while the smallest of them may be beyond the knee."""
        lowest = self._known.rates[0]
        within = lowest.output_tokens_per_s + lowest.half_width
        if lowest.batch == 1 or within < CLEARLY_BELOW * self._known.best:
            return None
        return max(1, lowest.batch // ANCHOR_RATIO), Purpose.REFINE, SCOUT_SHARE

    def _edge(self) -> Wanted | None:
        """Return a batch between the largest that the engine holds and the smallest that it does
        not.
        """
        largest, ceiling = self._known.rates[-1].batch, self._known.ceiling
        if ceiling == self._limits.max_batch or ceiling <= EDGE_RATIO * largest:
            return None
        return _middle(largest, ceiling + 1), Purpose.REFINE, SCOUT_SHARE

    def _doubling(self) -> Wanted | None:
        """Half the largest batch, if throughput may have grown since."""
        last = self._known.rates[-1]
        before = [p for p in self._known.rates if 2 * p.batch <= last.batch]
        if not before or last.batch <= HALF_AS_LARGE * before[-1].batch:
            return None
        growth = last.output_tokens_per_s / before[-1].output_tokens_per_s - 1
        if growth <= self._limits.tolerance / 2:
            return None
        return last.batch // 2, Purpose.REFINE, SCOUT_SHARE

    def _around(self) -> Wanted | None:
        """Return a batch in a wide gap in which a better batch, or an earlier knee, may hide."""
        known = self._known
        if known.growing:
            return None
        worth, top, knee = WORTH_A_LOOK * known.best, known.top.batch, known.knee
        for low, high in zip(known.rates, known.rates[1:], strict=False):
            hides = min(low.output_tokens_per_s, high.output_tokens_per_s) >= worth
            matters = top in {low.batch, high.batch} or high.batch <= knee
            if high.batch > WIDE_GAP * low.batch and hides and matters:
                return _middle(low.batch, high.batch), Purpose.REFINE, SCOUT_SHARE
        return None

    def _inside(self) -> Wanted | None:
        """Return a batch in the gap below the knee, then in the gap above it, until both are
        narrow.
        """
        if self._known.growing or self._known.made(Purpose.REFINE) >= MAX_REFINED:
            return None
        knee = self._known.knee
        batches = [r.batch for r in self._known.rates]
        at = batches.index(knee)
        if at > 0 and _too_wide(batches[at - 1], knee):
            return _middle(batches[at - 1], knee), Purpose.REFINE, None
        if at + 1 < len(batches) and _too_wide(knee, batches[at + 1]):
            most = max(knee + 1, int(knee * NEIGHBOUR_RATIO))
            return roundest(most, knee + 1, most), Purpose.REFINE, SCOUT_SHARE
        return None

    # Settling

    def _settle(self) -> Wanted | None:
        """Return another visit of a batch that the answer rests on."""
        steps: list[tuple[Callable[[], Wanted | None], float]] = [
            (self._second, self._overrun_left),
            (self._confirm, self._left),
            (self._again, self._left),
        ]
        for step, left in steps:
            wanted = step()
            if wanted is None or wanted[0] > self._known.ceiling:
                continue
            if self._costs.least(wanted[0]) <= left:
                return wanted
            self._skipped = True
        return None

    def _second(self) -> Wanted | None:
        """Return the second visit; that of the best batch is its fresh window."""
        confirm = self._confirm()
        once = [b for b in self._known.owed() if confirm is None or b != confirm[0]]
        return (once[0], Purpose.DOWN, None) if once else None

    def _confirm(self) -> Wanted | None:
        """Return a fresh window for the best batch: the largest of noisy figures is biased
        upwards.
        """
        confirmed = {v.batch for v in self._known.visits if v.purpose is Purpose.CONFIRM}
        top, best = self._known.top, best_rate(self._known.visits)
        if top.batch in confirmed or len(confirmed) >= MAX_CONFIRMED:
            return None
        if best is not None and top.output_tokens_per_s <= (1 + CONFIRM_AGAIN) * best:
            return None
        return top.batch, Purpose.CONFIRM, None

    def _again(self) -> Wanted | None:
        """Return a third visit of a batch whose two visits contradict each other."""
        apart = self._known.disagreeing()
        return (apart[0], Purpose.AGAIN, None) if apart else None

    # Time

    def _trials_left(self) -> int:
        anchors_seen = len(anchors(self._limits)) - len(self._unseen_anchors())
        after = len(self._known.visits) - anchors_seen
        return len(self._unseen_anchors()) + max(1, TYPICAL_TRIALS - after)

    def seconds_left(self) -> float:
        """Estimate of the time the rest of the search takes."""
        visits = self._known.visits
        mean = math.fsum(v.seconds for v in visits) / max(1, len(visits))
        each = mean or self._limits.min_window_seconds
        return max(0.0, min(self._left, self._trials_left() * each))


def _too_wide(low: int, high: int) -> bool:
    return high - low >= 2 and high > NEIGHBOUR_RATIO * low


def _middle(low: int, high: int) -> int:
    """Return the geometric middle of a gap, rounded by `roundest`."""
    return roundest(math.sqrt(low * high), low + 1, high - 1)
