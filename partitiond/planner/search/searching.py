"""Runs the compiled search as a member of the portfolio: chooses its start and its time."""

from typing import Final

from partitiond.planner.model.sites import Floats, Sites, build_sites
from partitiond.planner.pack.members import Member, member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.stop import Stop

NAME: Final = "ruin and recreate"
LOOK_SECONDS: Final = 1.0
"""Time of a first search. Chosen."""
LOOK_STEPS: Final = 20_000
LOOK_SHARE: Final = 0.3
HOPE_SHARE: Final = 0.5
"""Share of the time after which a search that found no plan serving all demand gives up, because
the fallback to the most goodput needs time as well. Chosen, as those of the first look."""


def search(
    watch: SolveMonitor, best: Member | None, worth: Floats, *, by_cost: bool
) -> list[Member]:
    """Search until the time is over, the caller stops it or the bound is met; return what it found.

    Args:
        watch: the clock and the progress callback.
        best: a second start; None to start only from an empty packing.
        worth: (E,) what one replica of each entry takes.
        by_cost: True to serve all demand at the least cost; False to maximise goodput.
    """
    improver = _begun(watch, best, worth, by_cost=by_cost)
    if not watch.done:
        # Find a good plan first, for callers that look early.
        _look(watch, improver)
        _run(watch, improver)
    return [member(NAME, improver.best())] if improver.found else []


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


def _run(watch: SolveMonitor, improver: Improver) -> None:
    def halt() -> bool:
        late = improver.share > HOPE_SHARE or watch.impossible
        hopeless = not improver.found and late
        return watch.done or hopeless or watch.left() <= 0

    improver.run(watch.left(), halt=halt, tell=lambda _: _tell(watch, improver))


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
