"""The column generation beside the search: in a thread of its own, or for a while before it.

It gives bounds and prices, and plans: dives into its linear program are the best source of plans
there is once the program has converged, and the search improves on them.
"""

import math
import threading
import time
from typing import Final

from partitiond.planner.arrays import Floats, Problem
from partitiond.planner.bound import with_survival
from partitiond.planner.improve import with_floor
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Watch

NAME: Final = "dive into columns"
DIVES: Final = 200
FIXED_DIVES: Final = 3
"""Dives where the answer may not depend on the clock."""
END_SECONDS: Final = 0.3
"""A round takes longer only where code is compiled for the first time."""


class _EnoughError(Exception):
    """Ends the column generation from within: the plan is proven, or nobody waits any more."""


class Pricer:
    """Bounds for the watch and prices for the search, better from time to time.

    Args:
        problem: the instance.
        watch: told of bounds.
        by_cost: what is bounded.
    """

    def __init__(self, problem: Problem, watch: Watch, *, by_cost: bool) -> None:
        self.problem, self.watch, self.by_cost = problem, watch, by_cost
        self.improved = False
        """Whether it gave a better bound than was known."""
        self._latest: Floats | None = None
        self._plan: Packing | None = None
        self._best: float | None = None
        self._thread: threading.Thread | None = None

    def work(self, seconds: float, *, rounds: int | None = None) -> None:
        """Generate columns here and now.

        Args:
            seconds: the clock's limit.
            rounds: a limit in work instead, where the answer may not depend on the clock.
        """
        # Compiled code is loaded: not for instances that need none of it.
        from partitiond.planner.columns import ROUNDS, generate

        try:
            found = generate(
                with_survival(self.problem) if self.by_cost else self.problem,
                kind="cost" if self.by_cost else "goodput",
                deadline=math.inf if rounds is not None else time.monotonic() + seconds,
                seed=self.watch.instance.request.seed,
                on_bound=self._take,
                rounds=ROUNDS if rounds is None else rounds,
                # Dives know no rules that tie devices to each other.
                on_plan=None if self.watch.instance.ties.beyond_device else self._keep,
                dives=DIVES if rounds is None else FIXED_DIVES,
            )
            self._take(found.bound, found.entry_price)
        except _EnoughError:
            return

    def start(self, seconds: float) -> None:
        """The same in a thread."""
        self._thread = threading.Thread(target=self.work, args=(seconds,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for the thread, which ends with its present round, but not for long.

        It only reads what the search is over with; what it finds after this, nobody asks for.
        """
        if self._thread is not None:
            self._thread.join(timeout=END_SECONDS)

    def _take(self, bound: float, price: Floats) -> None:
        if self.watch.proved(bound):
            self.improved = True
        self._latest = price
        if self.watch.done or self.watch.left() <= 0:
            raise _EnoughError

    def prices(self) -> Floats | None:
        """Prices that were not taken yet."""
        latest, self._latest = self._latest, None
        return None if latest is None else with_floor(self.problem, latest)

    def _keep(self, packing: Packing) -> None:
        """Keep a plan for the search, if it is the best of them and serves what it has to."""
        lacks = packing.lacking() if self.by_cost else packing.short_replicas()
        value = packing.cost() if self.by_cost else packing.goodput()
        better = self._best is None or (value < self._best if self.by_cost else value > self._best)
        if not lacks and better:
            self._best, self._plan = value, packing
            self.watch.found(value, NAME)
        if self.watch.done or self.watch.left() <= 0:
            raise _EnoughError

    def plan(self) -> Packing | None:
        """The best plan, if it was not taken yet."""
        plan, self._plan = self._plan, None
        return plan
