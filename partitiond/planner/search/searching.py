"""Runs the compiled search as a member of the portfolio: chooses its start and its time.

With one worker, the column generation gets a part of the time before the search; with more workers
it runs in a thread beside the search. Both rarely hold the interpreter's lock.
"""

import time
from typing import Final

from partitiond.planner.market.beside import NAME as CHOICE
from partitiond.planner.market.beside import ColumnWorker
from partitiond.planner.model.sites import Floats, Sites, build_sites
from partitiond.planner.pack.members import Member, member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.stop import Stop

NAME: Final = "ruin and recreate"
COLUMNS_SHARE: Final = 0.5
"""Share of the time for columns if they have no worker of their own. Chosen, not measured."""
COLUMNS_LEAST_SECONDS: Final = 2.0
"""With less time left than this there are no columns. Chosen, not measured."""
ROUNDS_PER_SECOND: Final = 2.0
"""Rounds of columns per second of the time limit if the clock may not count. Chosen."""
LOOK_SECONDS: Final = 1.0
LEARN_SECONDS: Final = 0.5
"""Time of a first search; least time between two plans passed to the column generation. Chosen."""
LOOK_STEPS: Final = 20_000
LOOK_SHARE: Final = 0.3
HOPE_SHARE: Final = 0.5
"""Share of the time after which a search that found no plan serving all demand gives up, because
the fallback to the most goodput needs time as well. Chosen, as those of the first look."""


def search(
    watch: SolveMonitor, best: Member | None, worth: Floats, *, by_cost: bool
) -> tuple[list[Member], bool]:
    """Search until the time is over, the caller stops it or the bound is met.

    Args:
        watch: the clock and the progress callback.
        best: a second start; None to start only from an empty packing.
        worth: (E,) what one replica of each entry takes.
        by_cost: True to serve all demand at the least cost; False to maximise goodput.

    Returns:
        The plans found, and whether the column generation gave a better bound.
    """
    improver, sites = _begun(watch, best, worth, by_cost=by_cost), build_sites(watch.instance)
    beside = ColumnWorker(sites, watch)
    if not watch.done:
        # Find a good plan first, for callers that look early.
        _look(watch, improver)
        if improver.found:
            beside.learn(improver.best())
        request = watch.instance.request
        if watch.fixed:
            rounds = max(1, round(ROUNDS_PER_SECOND * request.time_limit_seconds))
            beside.work(0.0, rounds=rounds)
        elif watch.left() >= COLUMNS_LEAST_SECONDS and request.workers > 1:
            beside.start(watch.left())
        elif watch.left() >= COLUMNS_LEAST_SECONDS:
            beside.work(COLUMNS_SHARE * watch.left())
        _run(watch, improver, beside)
        beside.end()
    if not improver.found:
        return [], beside.improved
    # If the search did not improve on a chosen plan, the plan is attributed to the choice.
    chosen = watch.found_by(improver.value()) == CHOICE
    return [member(CHOICE if chosen else NAME, improver.best())], beside.improved


def _begun(watch: SolveMonitor, best: Member | None, worth: Floats, *, by_cost: bool) -> Improver:
    """Start a search from nothing, or from the best plan so far if that is better."""
    seed = watch.instance.request.seed
    improver = Improver(build_sites(watch.instance), worth, by_cost=by_cost, seed=seed)
    improver.start(None)
    if best is not None:
        improver.start(best.packing)
    _tell(watch, improver)
    return improver


def _tell(watch: SolveMonitor, improver: Improver) -> None:
    """Report the best plan. A plan that misses least numbers may be worth more than any that has
    them, so it would end the solve at a bound that no answer meets."""
    if improver.meets_least():
        watch.found(improver.value(), NAME)


def _look(watch: SolveMonitor, improver: Improver) -> None:
    """Search briefly, so that a good plan exists early."""
    improver.run(
        min(LOOK_SECONDS, LOOK_SHARE * watch.left()),
        steps=LOOK_STEPS if watch.fixed else None,
        halt=lambda: watch.done or watch.left() <= 0,
        tell=lambda _: _tell(watch, improver),
    )


def _run(watch: SolveMonitor, improver: Improver, beside: ColumnWorker) -> None:
    def halt() -> bool:
        late = improver.share > HOPE_SHARE or watch.impossible
        hopeless = not improver.found and late
        return watch.done or hopeless or watch.left() <= 0

    learned = time.monotonic()

    def tell(_: float) -> None:
        nonlocal learned
        _tell(watch, improver)
        if time.monotonic() - learned > LEARN_SECONDS:
            beside.learn(improver.best())
            learned = time.monotonic()

    improver.run(watch.left(), halt=halt, tell=tell, plans=beside.plan)
    # Take the last plan of the column generation.
    improver.adopt(beside.plan())


def serve_everything(
    sites: Sites,
    worth: Floats,
    *,
    seconds: float,
    stop: Stop,
    start: Packing | None,
    number: int,
) -> Packing | None:
    """Return any packing that lacks nothing; None if none is found in time, or before a stop.

    Args:
        sites: the instance as arrays.
        worth: (E,) what one replica of each entry takes.
        seconds: wall-clock limit, or an equivalent number of steps.
        stop: True ends the search without a packing.
        start: a packing to continue from; None for an empty one.
        number: number of this search, if there are several for the same request.
    """
    request = sites.instance.request
    improver = Improver(sites, worth, by_cost=True, seed=request.seed + number)
    improver.start(start)
    improver.run(seconds, halt=lambda: improver.found or stop())
    return improver.best() if improver.found else None
