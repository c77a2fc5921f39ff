"""How far a solve is: its clock, the best plan and the best bound so far, and who watches."""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from partitiond.core.plan import Objective
from partitiond.core.plan_answers import PlanProgress
from partitiond.planner.costs import charges_replicas, true_bound, true_value
from partitiond.planner.sites import build_sites
from partitiond.planner.types import RATE_SCALE, Instance

if TYPE_CHECKING:
    from partitiond.planner.members import Member

TELL_SECONDS: Final = 0.2
"""Least time between two reports of the same solve, but for the first."""
ROUNDING: Final = 1e-9
TRIFLE: Final = 1e-12
"""Relative difference of values that comes of the order of sums."""
FINISH_SHARE: Final = 0.04
FINISH_LEAST_SECONDS: Final = 0.05
FINISH_MORE: Final = 0.2
FINISH_LEAST: Final = 0.5
FINISH_PER_SIZE: Final = 9e-7
"""Seconds per model and device that assigning, tidying, explaining and checking take."""
SHARING_SHARE: Final = 0.15
SHARING_MOST: Final = 1.0
"""Seconds at most that are kept for models without a rate, which share what is left over."""


OnProgress = Callable[[PlanProgress], None]
"""Told of one solve, which has no title: `flow.progress_of` gives it one."""
Stop = Callable[[], bool]


def never() -> bool:
    """For solves that nobody stops."""
    return False


def goodput_unit(instance: Instance) -> float:
    """What weighted requests/s of plans are multiples of, as far as the integers tell; or 0."""
    counted = [n for n in instance.needs if n.rated]
    weights = {n.worth for n in counted}
    if len(weights) != 1 or not all(n.rate for n in counted):
        return 0.0
    rates = np.unique(build_sites(instance).rates).tolist()
    return math.gcd(*rates, *(n.rate for n in counted)) * next(iter(weights)) / RATE_SCALE


class CompilingStopped(Exception):  # noqa: N818 - nothing failed
    """Somebody asked to end while the search was compiled."""


class Watch:
    """The clock of one solve, and the best value and bound so far, in the solver's own numbers.

    Safe to use from the threads of one solve. Values and bounds are costs in PRICE_SCALE or
    weighted requests/s, and are told in the objective's own unit.

    Args:
        instance: the question.
        on_progress: told of what is better, at most every 0.2 s.
        stop: asked now and then whether to end with the best so far.
    """

    def __init__(
        self, instance: Instance, on_progress: OnProgress | None = None, stop: Stop = never
    ) -> None:
        self.instance = instance
        self.began = time.monotonic()
        self.fixed = instance.request.deterministic
        self.objective = instance.request.objective
        self.stop, self._tell = stop, on_progress
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._told, self._method = -math.inf, "starting"
        self._certified = False
        """Whether a plan with a bound was told of, which is always told at once."""
        self.value: float | None = None
        self.bound: float | None = None
        self.impossible = False
        """Whether it is proven that not all can be served."""
        self._unit = goodput_unit(instance)
        ranked = {n.priority: n.lift for n in instance.needs}
        self._by_class, self._lift = len(ranked) > 1, ranked[max(ranked)] if ranked else 1.0
        limit = instance.request.time_limit_seconds
        size = len(instance.needs) * len(instance.group_of)
        finish = max(FINISH_LEAST_SECONDS, FINISH_SHARE * limit, FINISH_PER_SIZE * size)
        if any(not need.rated for need in instance.needs) and not charges_replicas(
            instance.request
        ):
            finish += min(SHARING_MOST, SHARING_SHARE * limit)
        self.deadline = self.began + max(0.3 * limit, limit - finish)
        self.compile_seconds = 0.0
        """Not counted as solving."""
        self._paused_at: float | None = None

    @contextlib.contextmanager
    def compiling(self) -> Iterator[Callable[[float], None]]:
        """Stops the clock within; gives what is to be told the share that is compiled.

        It raises CompilingStopped once somebody asked to end.
        """
        began = time.monotonic()
        self._paused_at = began
        try:
            yield self._tell_compiled
        finally:
            self._paused_at = None
            seconds = time.monotonic() - began
            self.compile_seconds += seconds
            self.began += seconds
            self.deadline += seconds

    def _tell_compiled(self, share: float) -> None:
        if self.stop():
            raise CompilingStopped
        if self._tell is not None:
            with self._telling:
                self._tell(dataclasses.replace(self.now(), compiled=share))

    def left(self) -> float:
        """Seconds until the search has to end; without a clock all of them, always."""
        if self.stop():
            return 0.0
        if self.fixed:
            return self.instance.request.time_limit_seconds
        return max(0.0, self.deadline - time.monotonic())

    def rest(self) -> float:
        """Seconds until the time limit itself; without a clock it never comes."""
        if self.stop():
            return 0.0
        limit = math.inf if self.fixed else self.instance.request.time_limit_seconds
        return max(0.0, self.began + limit - time.monotonic())

    def over(self) -> bool:
        """Whether the time limit is over, or somebody asked to end."""
        return self.rest() <= 0

    def finish(self) -> Stop:
        """Says when what comes after the search has taken long enough: about as long again as is
        kept for it, and at once where somebody asked to end. Without a clock it never does."""
        limit = self.instance.request.time_limit_seconds
        until = max(time.monotonic(), self.deadline) + max(FINISH_LEAST, FINISH_MORE * limit)
        return lambda: self.stop() or (not self.fixed and time.monotonic() > until)

    def restart(self, objective: Objective) -> None:
        """The values told from now on speak of another objective."""
        with self._lock:
            self.objective, self.value, self.bound, self.impossible = objective, None, None, False

    def take(self, members: "Iterable[Member]") -> None:
        """Of plans those that are answers are found."""
        for one in members:
            packing, cost = one.packing, self.objective.is_cost
            if not (packing.lacking() if cost else packing.short_replicas()):
                self.found(packing.cost() if cost else packing.goodput(), one.name)

    def found(self, value: float, method: str) -> None:
        """A plan has this value."""
        with self._lock:
            # Sums of floats in another order are no better plan.
            known = self.value
            if known is not None and not self._better(value, known + self._trifle(known)):
                return
            self.value, self._method = value, method
        self._report()

    def found_by(self, value: float) -> str | None:
        """What found the best plan, if that has this value and nothing has found a better one."""
        with self._lock:
            best = self.value
            same = best is not None and abs(value - best) <= abs(self._trifle(best))
            return self._method if same else None

    def proved(self, bound: float) -> bool:
        """No plan is better than this; False where that was known.

        An infinite cost is a proof that not all can be served.
        """
        if self.objective.is_cost and math.isinf(bound):
            self.impossible = True
            return True
        if self.objective is Objective.MAX_GOODPUT and self._unit > 0:
            whole = math.floor(bound / self._unit * (1 + ROUNDING) + ROUNDING)
            bound = min(bound, whole * self._unit)
        with self._lock:
            if self.bound is not None and not self._better(self.bound, bound):
                return False
            self.bound = bound
        self._report()
        return True

    def _trifle(self, value: float) -> float:
        return (-TRIFLE if self.objective.is_cost else TRIFLE) * abs(value)

    def _better(self, one: float, other: float) -> bool:
        return one < other if self.objective.is_cost else one > other

    @property
    def done(self) -> bool:
        """Whether the best plan reaches the bound, as far as the objective's own unit tells."""
        now = self.now()
        # What a lower priority lacks is next to nothing of the sum, and counts.
        by_class = self._by_class and self.objective is Objective.MAX_GOODPUT
        return now.gap is not None and now.gap <= (0.0 if by_class else 1e-9)

    def now(self) -> PlanProgress:
        """The state at this moment."""
        with self._lock:
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
        until = time.monotonic() if self._paused_at is None else self._paused_at
        seconds = until - self.began
        return PlanProgress("", 1, 1, seconds, self.objective, value, bound, gap, method)

    def _report(self) -> None:
        """Tell who watches, in one thread at a time."""
        if self._tell is None:
            return
        with self._telling:
            now = self.now()
            certified = now.gap is not None
            first = certified and not self._certified
            if first or time.monotonic() - self._told >= TELL_SECONDS:
                self._told, self._certified = time.monotonic(), certified
                self._tell(now)
