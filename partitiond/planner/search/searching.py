"""Runs the compiled search as a member of the portfolio: chooses its start and its time."""

import functools
from typing import Final

from partitiond.planner.model.sites import Floats, build_sites
from partitiond.planner.pack.members import Member, member
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import NOISE, Improver

NAME: Final = "ruin and recreate"
HOPE_SHARE: Final = 0.5
"""Share of the time after which a search that found no plan serving all demand gives up, because
the fallback to the most goodput needs time as well. Chosen."""

SMALL: Final = 200
RUNS: Final = 12
"""Models times devices up to which the search by cost begins anew so often, with other seeds. There
a run is at its end within a second, and how good a plan is, is up to its first steps."""
FOR_LEAST: Final = 20_000
"""Steps times devices for least numbers that were missed when the time had passed, as a step may
look at all devices: some seconds of the compiled search at most on a busy machine. Chosen."""


def begun(watch: SolveMonitor, improver: Improver, share: float) -> list[Member]:
    """Return what the compiled search finds at once, or in a share of the time, and report it."""
    tell = functools.partial(_tell, watch, improver)
    improver.search.noise = 0.0  # of equal plans there is no reason to take any but the first
    improver.start(None)
    improver.search.noise = NOISE
    tell(improver.value())
    improver.run(share * watch.left(), halt=lambda: watch.done or watch.left() <= 0, tell=tell)
    found = [member(NAME, improver.best())] if improver.has_answer else []
    watch.take(found)
    return found


def search(
    watch: SolveMonitor, start: Member | None, worth: Floats, *, by_cost: bool
) -> list[Member]:
    """Search until the time is over, the caller stops it or the bound is met; return what it found.

    Args:
        watch: the clock and the progress callback.
        start: a plan to go on from; None to start from an empty packing.
        worth: (E,) what one replica of each entry takes.
        by_cost: True to serve all demand at the least cost; False to maximise goodput.
    """
    instance, sites = watch.instance, build_sites(watch.instance)
    small = by_cost and len(instance.needs) * len(instance.group_of) <= SMALL
    runs, seconds, found = RUNS if small else 1, watch.left(), list[Member]()
    for number in range(runs):
        improver = Improver(sites, worth, by_cost=by_cost, seed=instance.request.seed + number)
        tell = functools.partial(_tell, watch, improver)

        def halt(improver: Improver = improver, before: int = number) -> bool:
            late = before + improver.share > HOPE_SHARE * runs or watch.impossible
            hopeless = not (found or improver.has_answer) and late
            return watch.done or hopeless or watch.left() <= 0

        def has_least(improver: Improver = improver) -> bool:
            return improver.meets_least() or watch.stop()

        improver.start(None)
        if start is not None and not number:
            improver.start(start.packing)
        tell(improver.value())
        if not watch.done:
            improver.run(seconds / runs, halt=halt, tell=tell)
        last = halt() or number + 1 == runs
        if last and not found:  # a late or busy clock is no reason to miss least numbers
            improver.run(0.0, steps=FOR_LEAST // len(instance.group_of), halt=has_least)
        if improver.has_answer:
            found.append(member(NAME, improver.best()))
        if last:
            break
    return found


def _tell(watch: SolveMonitor, improver: Improver, value: float) -> None:
    """Report the value of a better plan."""
    # A plan that misses least numbers may be worth more than any that has them, so it would end the
    # solve at a bound that no answer meets.
    if improver.meets_least():
        watch.record_best(value, NAME)
