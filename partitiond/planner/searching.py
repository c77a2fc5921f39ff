"""The compiled search as a member of the portfolio: its start and its time.

With one worker, the column generation has a part of the time before the search, with more a
thread beside it; both spend nearly all of their time where the interpreter's lock is not held.
"""

import time
from typing import Final

from partitiond.planner.improve import Improver
from partitiond.planner.market.beside import NAME as CHOICE
from partitiond.planner.market.beside import Beside
from partitiond.planner.members import Member, member
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Stop, Watch
from partitiond.planner.sites import Floats, Sites, build_sites

NAME: Final = "ruin and recreate"
COLUMNS_SHARE: Final = 0.5
"""Share of the time for columns where they have no worker of their own."""
COLUMNS_LEAST_SECONDS: Final = 2.0
"""Time limits below this leave none for columns."""
ROUNDS_PER_SECOND: Final = 2.0
"""Rounds of columns per second of the time limit where the clock may not count."""
LOOK_SECONDS: Final = 1.0
LEARN_SECONDS: Final = 0.5
"""Least time between two plans that the columns are told of."""
SHORT_SECONDS: Final = 0.2
SHORT_STEPS: Final = 20_000
SHORT_SHARE: Final = 0.3
HOPE_SHARE: Final = 0.5
"""Share of the time after which a search for a plan that serves everything, and has found none, is
given up: the most goodput needs time as well."""


def search(
    watch: Watch, best: Member | None, worth: Floats, *, by_cost: bool
) -> tuple[list[Member], bool]:
    """Search until the time is over, somebody stops it or the bound is met.

    Args:
        watch: clock, and who is told.
        best: where to start as well; None for a start of its own only.
        worth: (E,) what one replica of each site's entry takes.
        by_cost: whether everything is to be served for the least, or goodput counts.

    Returns:
        What was found, and whether the column generation gave a better bound.
    """
    improver, sites = _begun(watch, best, worth, by_cost=by_cost), build_sites(watch.instance)
    beside = Beside(sites, watch)
    if not watch.done:
        # Something good first, for whoever looks soon.
        _look(watch, improver, LOOK_SECONDS)
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
    # A chosen plan that nothing improved on is the choice's.
    chosen = watch.found_by(improver.value()) == CHOICE
    return [member(CHOICE if chosen else NAME, improver.best())], beside.improved


def short_search(
    watch: Watch, best: Member | None, worth: Floats, *, by_cost: bool
) -> list[Member]:
    """A fifth of a second, before a solver that proves takes longer."""
    improver = _begun(watch, best, worth, by_cost=by_cost)
    _look(watch, improver, SHORT_SECONDS)
    return [member(NAME, improver.best())] if improver.found else []


def _begun(watch: Watch, best: Member | None, worth: Floats, *, by_cost: bool) -> Improver:
    """A search from nothing, or from the best so far where that is better."""
    seed = watch.instance.request.seed
    improver = Improver(build_sites(watch.instance), worth, by_cost=by_cost, seed=seed)
    improver.start(None)
    if best is not None:
        improver.start(best.packing)
    if improver.found:
        watch.found(improver.value(), NAME)
    return improver


def _look(watch: Watch, improver: Improver, seconds: float) -> None:
    """A short search, so that a good plan is there soon."""
    improver.run(
        min(seconds, SHORT_SHARE * watch.left()),
        steps=SHORT_STEPS if watch.fixed else None,
        halt=lambda: watch.done or watch.left() <= 0,
        tell=lambda value: watch.found(value, NAME),
    )


def _run(watch: Watch, improver: Improver, beside: Beside) -> None:
    def halt() -> bool:
        late = improver.share > HOPE_SHARE or watch.impossible
        hopeless = not improver.found and late
        return watch.done or hopeless or watch.left() <= 0

    learned = time.monotonic()

    def tell(value: float) -> None:
        nonlocal learned
        watch.found(value, NAME)
        if time.monotonic() - learned > LEARN_SECONDS:
            beside.learn(improver.best())
            learned = time.monotonic()

    improver.run(watch.left(), halt=halt, tell=tell, plans=beside.plan)
    # What came last.
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
    """Any packing that lacks nothing; None where none is found in time, or before a stop.

    Args:
        sites: the question.
        worth: (E,) what one replica of each entry takes.
        seconds: the clock's limit, or that of as many steps.
        stop: says when to end without.
        start: a packing to go on from; None for an empty one.
        number: of the search, of several for the same request.
    """
    request = sites.instance.request
    improver = Improver(sites, worth, by_cost=True, seed=request.seed + number)
    improver.start(start)
    improver.run(seconds, halt=lambda: improver.found or stop())
    return improver.best() if improver.found else None
