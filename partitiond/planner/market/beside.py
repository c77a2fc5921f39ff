"""Runs the column generation beside the search: in a thread of its own, or for a while before it.

It gives bounds, and periodically a plan chosen from the sets known so far; the search passes it the
plans that it has found. Each passes the other one object at a time, so neither waits. Both rarely
hold the interpreter's lock.
"""

import collections
import math
import threading
import time
from typing import Final

from partitiond.planner.market.choose import choose
from partitiond.planner.market.rounds import Columns
from partitiond.planner.market.value import HaltedError
from partitiond.planner.model.sites import Sites, with_survival
from partitiond.planner.pack.members import Member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor

NAME: Final = "choice of columns"
EVERY_SHARE: Final = 0.2
"""Share of the time after which a plan is chosen, the first time and again each time. Chosen."""
CHOICE_SHARE: Final = 0.1
"""Share of the time that one choice may take. Chosen, not measured."""
SLICE_SECONDS: Final = 0.5
"""Time of one choice, which cannot be ended early; the next starts from its result. Chosen."""
LOOK_SECONDS: Final = 0.1
ALL_ROUNDS: Final = 1 << 30
FIXED_NODES: Final = 1_000
"""Branches of a choice if the answer may not depend on the clock. Chosen, not measured."""


class ColumnWorker:
    """Produces bounds for the watch and plans for the search, which improve over time.

    Args:
        watch: receives bounds and plans; its objective decides what is bounded.
    """

    def __init__(self, sites: Sites, watch: SolveMonitor) -> None:
        self.sites, self.watch, self.by_cost = sites, watch, watch.objective.is_cost
        self.improved = False
        """Whether it gave a better bound than was known before."""
        self._news = threading.Event()
        self._learn: Packing | None = None
        self._chosen: Packing | None = None
        self._plans: collections.deque[Packing] = collections.deque(maxlen=1)
        self._thread: threading.Thread | None = None
        self._ended = False
        self._error: BaseException | None = None

    def work(self, seconds: float, *, rounds: int | None = None) -> None:
        """Generate columns and choose among them, in the calling thread.

        Args:
            seconds: wall-clock limit.
            rounds: a limit on the work instead, if the answer may not depend on the clock.
        """
        try:
            columns = Columns(
                with_survival(self.sites) if self.by_cost else self.sites,
                as_cost=self.by_cost,
                on_bound=self._proved,
                halt=self._enough,
            )
            if rounds is not None:
                columns.run(math.inf, rounds)
                self._choose(columns, math.inf)
            else:
                self._by_the_clock(columns, seconds)
        except HaltedError:
            return

    def _by_the_clock(self, columns: Columns, seconds: float) -> None:
        end = time.monotonic() + seconds
        due = end - (1 - EVERY_SHARE) * seconds
        while not self._enough():
            learned = self._take_learned(columns)
            columns.run(min(due, end), ALL_ROUNDS)
            if columns.converged and not learned and columns.rounds and self._chosen is not None:
                # There is nothing new until the search has a better plan.
                self._news.wait(LOOK_SECONDS)
                continue
            stuck = time.monotonic() < due and not columns.converged
            self._take_learned(columns)
            until = min(end, time.monotonic() + CHOICE_SHARE * seconds)
            while time.monotonic() < until and not self._enough():
                if not self._choose(columns, min(SLICE_SECONDS, until - time.monotonic())):
                    break
            if stuck:
                return  # the linear program gave up
            due = time.monotonic() + EVERY_SHARE * seconds

    def _choose(self, columns: Columns, seconds: float) -> bool:
        """Choose once; return whether the plan is better than those chosen before."""
        known = self._learn
        packing = choose(
            columns.market,
            columns.patterns,
            known,
            seconds=seconds,
            nodes=FIXED_NODES if math.isinf(seconds) else None,
            hint=max(self._chosen, known, key=self._worth),
        )
        if packing is None or self._worth(packing) <= self._worth(self._chosen):
            return False
        self._chosen = packing
        self._plans.append(packing)
        self.watch.take([Member(NAME, packing)])
        return True

    def _worth(self, packing: Packing | None) -> float:
        """Return the worth of a packing; more is better."""
        if packing is None:
            return -math.inf
        return -packing.cost() if self.by_cost else packing.goodput()

    def start(self, seconds: float) -> None:
        """Run `work` in a thread."""
        self._thread = threading.Thread(target=self._run, args=(seconds,), daemon=True)
        self._thread.start()

    def _run(self, seconds: float) -> None:
        try:
            self.work(seconds)
        except BaseException as error:  # noqa: BLE001 - raised again by `end`
            self._error = error

    def end(self) -> None:
        """Stop the thread after its present step, so that it does not run beside the next solve.

        Raises the thread's exception.
        """
        self._ended = True
        self._news.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def learn(self, packing: Packing) -> None:
        """Pass a plan of the search to the column generation; only the last one counts."""
        self._learn = packing
        self._news.set()

    def _take_learned(self, columns: Columns) -> int:
        self._news.clear()
        packing = self._learn
        return 0 if packing is None else columns.learn(packing)

    def _proved(self, bound: float) -> None:
        if self.watch.proved(bound):
            self.improved = True

    def _enough(self) -> bool:
        """Return whether the plan is proven, or no more work is wanted."""
        watch = self.watch
        return self._ended or watch.done or watch.impossible or watch.left() <= 0

    def plan(self) -> Packing | None:
        """Return the best plan, if it was not returned yet."""
        return self._plans.pop() if self._plans else None
