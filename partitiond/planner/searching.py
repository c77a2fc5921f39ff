"""The compiled search as a member of the portfolio: its start, its time, its prices.

With one worker, the column generation has a part of the time before the search, with more a
thread beside it; both spend nearly all of their time where the interpreter's lock is not held.
"""

import time
from typing import Final

from partitiond.core.plan import Objective
from partitiond.planner.arrays import build_problem
from partitiond.planner.bound import Bound, bound_cost, bound_goodput
from partitiond.planner.exact import Exact
from partitiond.planner.improve import FIXED_STEPS_PER_SECOND, Improver, Schedule, prices_of
from partitiond.planner.instance import RATE_SCALE, Instance
from partitiond.planner.members import Member, baselines, member
from partitiond.planner.packing import Packing
from partitiond.planner.pricer import Pricer
from partitiond.planner.progress import Watch
from partitiond.planner.proof import can_prove, prove
from partitiond.planner.ruled import place_ruled

NAME: Final = "ruin and recreate"
COLUMNS_SHARE: Final = 0.5
"""Share of the time for columns where they have no worker of their own."""
COLUMNS_LEAST_SECONDS: Final = 2.0
"""Time limits below this leave none for columns."""
ROUNDS_PER_SECOND: Final = 1.0
"""Rounds of columns per second of the time limit where the clock may not count."""
LOOK_SECONDS: Final = 1.0
SHORT_SECONDS: Final = 0.2
SHORT_STEPS: Final = 20_000
SHORT_SHARE: Final = 0.3
PROOF_SHARE: Final = 0.3
"""Share of the time for the columns of a proof."""
DISPROVEN: Final = 2e-4
"""Share of the demand by which the most goodput falls short at least, where it is proof that not
all can be served: more than such a proof leaves open."""
HOPE_SHARE: Final = 0.5
"""Share of the time after which a search for a plan that serves everything, and has found none, is
given up: the most goodput needs time as well."""
BASELINE_PER_SIZE: Final = 2.5e-6
"""Seconds per model and device that both baselines take together."""
BASELINE_SHARE: Final = 0.2


def search(
    watch: Watch, bound: Bound, best: Member | None, *, by_cost: bool
) -> tuple[list[Member], bool]:
    """Search until the time is over, somebody stops it or the bound is met.

    Args:
        watch: clock, and who is told.
        bound: first prices.
        best: where to start as well; None for a start of its own only.
        by_cost: whether everything is to be served for the least, or goodput counts.

    Returns:
        What was found, and whether the column generation gave a better bound.
    """
    instance = watch.instance
    problem = build_problem(instance)
    prices = prices_of(problem, bound)
    improver = Improver(problem, prices, by_cost=by_cost, seed=instance.request.seed)
    _begin(instance, improver, best)
    if improver.found:
        watch.found(improver.value(), NAME)
    pricer = Pricer(problem, watch, by_cost=by_cost)
    members: list[Member] = []
    if not watch.done:
        # Something good first, for whoever looks soon; the baselines take seconds at large sizes.
        _look(watch, improver)
        beside = _beside(watch)
        if beside:
            pricer.start(watch.left())
        members += _baselines(watch, bound, best)
        if not beside:
            _price(watch, pricer)
        _run(watch, improver, pricer)
        pricer.end()
    if improver.found:
        members.append(member(NAME, improver.best()))
    return members, pricer.improved


def short_search(watch: Watch, bound: Bound, best: Member | None) -> list[Member]:
    """A fifth of a second for a cost objective, before a solver that proves takes longer."""
    improver = _short(watch, bound, best, by_cost=True)
    return [member(NAME, improver.best())] if improver.found else []


def _short(watch: Watch, bound: Bound, best: Member | None, *, by_cost: bool) -> Improver:
    instance = watch.instance
    problem = build_problem(instance)
    prices, seed = prices_of(problem, bound), instance.request.seed
    improver = Improver(problem, prices, by_cost=by_cost, seed=seed)
    _begin(instance, improver, best)
    if improver.found:
        watch.found(improver.value(), NAME)
    seconds = min(SHORT_SECONDS, SHORT_SHARE * watch.left())
    improver.run(
        Schedule(time.monotonic(), seconds, SHORT_STEPS if watch.fixed else None),
        halt=lambda: watch.done or watch.left() <= 0,
        tell=lambda value: watch.found(value, NAME),
        prices=lambda: None,
    )
    return improver


def serve_or_disprove(watch: Watch) -> tuple[Packing | None, bool]:
    """Whether everything can be served at all, for small instances where no packer did it.

    Returns:
        A packing that lacks nothing, and whether it is proven that there is none.
    """
    instance = watch.instance
    if not can_prove(instance) or not all(need.rated for need in instance.needs):
        return None, False
    # The same question with goodput as what counts: all is served where all demand is.
    apart = watch.apart(Objective.MAX_GOODPUT)
    _, proven = search_and_prove(apart, bound_goodput(instance), None)
    if proven is None or proven.packing is None:
        return None, False
    if not proven.packing.lacking():
        return proven.packing, False
    wanted = sum(n.weight * n.rate for n in instance.needs) / RATE_SCALE
    return None, proven.packing.goodput() < wanted * (1 - DISPROVEN)


def search_and_prove(
    watch: Watch, bound: Bound, best: Member | None
) -> tuple[Member | None, Exact | None]:
    """A short search for goodput and a proof of what it found, for small instances.

    Returns:
        What was found, and the best plan; None where the proof is not at hand, or rules tie
        devices to each other.
    """
    instance = watch.instance
    if not can_prove(instance):
        return None, None
    improver = _short(watch, bound, best, by_cost=False)
    limit = float("inf") if watch.fixed else time.monotonic() + PROOF_SHARE * watch.left()
    proven = prove(watch, improver, limit)
    return member(NAME, improver.best()), proven


def _begin(instance: Instance, improver: Improver, best: Member | None) -> None:
    """From nothing but the models with rules beyond one device, and from the best so far."""
    ruled = Packing(instance)
    place_ruled(ruled)
    improver.start(ruled if instance.ties.beyond_device else None)
    if best is not None:
        improver.start(best.packing)


def _baselines(watch: Watch, bound: Bound, best: Member | None) -> list[Member]:
    """The stated baselines, where the time allows them and they are not there yet."""
    instance = watch.instance
    size = len(instance.needs) * len(instance.group_of)
    if best is not None and best.name != "kept what runs":
        return []
    if BASELINE_PER_SIZE * size > BASELINE_SHARE * watch.left() and not watch.fixed:
        return []
    found = baselines(instance, bound.entries)
    cost = watch.objective.is_cost
    found = [m for m in found if not (cost and m.packing.lacking())]
    for one in found:
        if cost or one.packing.short_replicas() == 0:
            watch.found(one.packing.cost() if cost else one.packing.goodput(), one.name)
    return found


def _look(watch: Watch, improver: Improver) -> None:
    """A short search, so that a good plan is there soon."""
    seconds = min(LOOK_SECONDS, SHORT_SHARE * watch.left())
    improver.run(
        Schedule(time.monotonic(), seconds, SHORT_STEPS if watch.fixed else None),
        halt=lambda: watch.done or watch.left() <= 0,
        tell=lambda value: watch.found(value, NAME),
        prices=lambda: None,
    )


def _beside(watch: Watch) -> bool:
    """Whether columns are generated in a thread of their own."""
    long_enough = watch.left() >= COLUMNS_LEAST_SECONDS
    return not watch.fixed and long_enough and watch.instance.request.workers > 1


def _price(watch: Watch, pricer: Pricer) -> None:
    """Columns before the search, where they have no thread."""
    seconds = watch.instance.request.time_limit_seconds
    if watch.fixed:
        pricer.work(0.0, rounds=max(1, round(ROUNDS_PER_SECOND * seconds)))
    elif watch.left() >= COLUMNS_LEAST_SECONDS:
        pricer.work(COLUMNS_SHARE * watch.left())


def _run(watch: Watch, improver: Improver, pricer: Pricer) -> None:
    seconds = watch.left()
    steps = round(FIXED_STEPS_PER_SECOND * seconds) if watch.fixed else None
    schedule = Schedule(time.monotonic(), seconds, steps)

    def halt() -> bool:
        hopeless = not improver.found and schedule.share() > HOPE_SHARE
        return watch.done or hopeless or watch.left() <= 0

    improver.run(
        schedule,
        halt=halt,
        tell=lambda value: watch.found(value, NAME),
        prices=pricer.prices,
        plans=pricer.plan,
    )
    # What came with the last dive.
    improver.adopt(pricer.plan())


def serve_everything(instance: Instance, seconds: float) -> Packing | None:
    """Any packing that lacks nothing; None where none is found in time."""
    bound = bound_cost(instance)
    if bound.value is None:
        return None
    problem = build_problem(instance)
    seed, fixed = instance.request.seed, instance.request.deterministic
    improver = Improver(problem, prices_of(problem, bound), by_cost=True, seed=seed)
    _begin(instance, improver, None)
    steps = round(FIXED_STEPS_PER_SECOND * seconds) if fixed else None
    improver.run(
        Schedule(time.monotonic(), seconds, steps),
        halt=lambda: improver.found,
        tell=lambda _: None,
        prices=lambda: None,
    )
    packing = improver.best() if improver.found else None
    return packing if packing is not None and not packing.lacking() else None
