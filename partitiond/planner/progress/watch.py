"""Tracks the progress of a solve: its clock, its best plan and bound, and its progress callback."""

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Objective
from partitiond.planner.model.solver_costs import true_bound, true_value
from partitiond.planner.model.types import Instance
from partitiond.planner.stop import Stop, never

if TYPE_CHECKING:
    from partitiond.planner.pack.members import Member

TELL_SECONDS: Final = 0.2
"""Minimum time between two reports of the same solve, except for the first."""
SUM_ERROR: Final = 1e-12
"""Relative difference that only results from the order in which floats are summed."""
FINISH_SHARE: Final = 0.04
FINISH_LEAST_SECONDS: Final = 0.05
FINISH_MORE: Final = 0.2
FINISH_LEAST: Final = 0.5
FINISH_PER_SIZE: Final = 9e-7
"""Seconds per model and device of assigning, tidying, explaining and checking. All chosen."""
LEAST_SHARE: Final = 0.5
"""Share of the limit that the search has at least, however long it took to prepare. Chosen."""


OnProgress = Callable[[PlanProgress], None]
"""Called with the progress of one solve, without a title: `flow.progress_of` adds the title."""


class SolveMonitor:
    """The clock of one solve, and the best value and bound so far, in the solver's own numbers.

    A solve has one thread. Values and bounds are costs in PRICE_SCALE or
    weighted requests/s, and are reported in the objective's own unit.

    Args:
        instance: the problem instance.
        on_progress: called with improvements, at most every 0.2 s.
        stop: called periodically; True ends the solve with the best plan so far.
        began: when the time limit began, in `time.monotonic`; None for now.
    """

    def __init__(
        self,
        instance: Instance,
        on_progress: OnProgress | None = None,
        stop: Stop = never,
        began: float | None = None,
    ) -> None:
        self.instance = instance
        self.began = time.monotonic() if began is None else began
        self.fixed = instance.request.deterministic
        self.objective = instance.request.objective
        self.stop, self._tell = stop, on_progress
        self._told, self._method = -math.inf, "starting"
        self._certified = False
        """Whether a plan with a bound was reported; the first one is always reported at once."""
        self.value: float | None = None
        self.bound: float | None = None
        self.impossible = False
        """Whether it is proven that not all demand can be served."""
        ranked = {n.priority: n.lift for n in instance.needs}
        self._by_class, self._lift = len(ranked) > 1, ranked[max(ranked)] if ranked else 1.0
        limit = instance.request.time_limit_seconds
        size = len(instance.needs) * len(instance.group_of)
        finish = max(FINISH_LEAST_SECONDS, FINISH_SHARE * limit, FINISH_PER_SIZE * size)
        self.deadline = max(self.began + limit - finish, time.monotonic() + LEAST_SHARE * limit)

    def left(self) -> float:
        """Return the seconds until the search has to end; the full limit if there is no clock."""
        if self.stop():
            return 0.0
        if self.fixed:
            return self.instance.request.time_limit_seconds
        return max(0.0, self.deadline - time.monotonic())

    def rest(self) -> float:
        """Return the seconds until a fifth after the limit; infinite if there is no clock."""
        if self.stop():
            return 0.0
        limit = math.inf if self.fixed else self.instance.request.time_limit_seconds
        return max(0.0, self.began + (1 + FINISH_MORE) * limit - time.monotonic())

    def over(self) -> bool:
        """Return whether `rest` has passed, or the caller asked to stop."""
        return self.rest() <= 0

    def within(self, share: float) -> Stop:
        """Return a `Stop` for a step that may take a share of the time left."""
        return self.until(time.monotonic() + share * self.left())

    def until(self, at: float) -> Stop:
        """Return a `Stop` for a step that ends at a time of `time.monotonic`, or as the caller
        asks to stop. Without a clock only the caller ends it."""
        return lambda: self.stop() or (not self.fixed and time.monotonic() > at)

    def finish(self, share: float = 1.0) -> Stop:
        """Return a `Stop` for a step after the search: a share of the time until a fifth of the
        limit beyond the search's end, or of half a second if that has come."""
        limit, now = self.instance.request.time_limit_seconds, time.monotonic()
        left = self.deadline + FINISH_MORE * limit - now
        return self.until(now + share * max(FINISH_LEAST, left))

    def restart(self, objective: Objective) -> None:
        """Switch to another objective; values reported from now on belong to it."""
        self.objective, self.value, self.bound, self.impossible = objective, None, None, False

    def take(self, members: "Iterable[Member]") -> None:
        """Report the members that are valid answers as found."""
        for one in members:
            packing, cost = one.packing, self.objective.is_cost
            if not (packing.lacking() if cost else packing.short_replicas()):
                self.record_best(packing.cost() if cost else packing.goodput(), one.name)

    def record_best(self, value: float, method: str) -> None:
        """Record a plan with this value, if it is better than the best so far."""
        # A sum of floats in another order is not a better plan.
        known = self.value
        if known is not None and not self._better(value, known + self._trifle(known)):
            return
        self.value, self._method = value, method
        self._report()

    def proved(self, bound: float) -> bool:
        """Record that no plan is better than this bound; False if a bound as good was known.

        An infinite cost proves that not all demand can be served.
        """
        if self.objective.is_cost and math.isinf(bound):
            self.impossible = True
            return True
        if self.bound is not None and not self._better(self.bound, bound):
            return False
        self.bound = bound
        self._report()
        return True

    def _trifle(self, value: float) -> float:
        return (-SUM_ERROR if self.objective.is_cost else SUM_ERROR) * abs(value)

    def _better(self, one: float, other: float) -> bool:
        return one < other if self.objective.is_cost else one > other

    @property
    def done(self) -> bool:
        """Whether the best plan reaches the bound, as far as the objective's own unit shows."""
        now = self.now()
        # What a lower priority lacks is a tiny part of the sum, but it counts.
        by_class = self._by_class and self.objective is Objective.MAX_GOODPUT
        return now.gap is not None and now.gap <= (0.0 if by_class else 1e-9)

    def now(self) -> PlanProgress:
        """Return the state at this moment."""
        value, bound, method = self.value, self.bound, self._method
        request = self.instance.request
        if self.objective.is_cost:
            value = None if value is None else true_value(request, value)
            bound = None if bound is None else true_bound(request, bound)
        elif self.objective is Objective.MAX_GOODPUT:
            value = None if value is None else value / self._lift
            bound = None if bound is None else bound / self._lift
        gap = None
        if value is not None and bound is not None:
            worse = bound - value if not self.objective.is_cost else value - bound
            gap = max(0.0, worse) / max(abs(value), 1e-9)
        seconds = time.monotonic() - self.began
        return PlanProgress("", 1, 1, seconds, self.objective, value, bound, gap, method)

    def _report(self) -> None:
        """Call the progress callback, if it was not called just now."""
        if self._tell is None:
            return
        now = self.now()
        certified = now.gap is not None
        first = certified and not self._certified
        if first or time.monotonic() - self._told >= TELL_SECONDS:
            self._told, self._certified = time.monotonic(), certified
            self._tell(now)
