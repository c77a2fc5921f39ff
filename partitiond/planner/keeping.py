"""What runs in a vast fleet, completed and improved by the compiled search."""

import collections
import math
import time
from collections.abc import Mapping
from typing import Final

from partitiond.planner.assign import replicas_kept
from partitiond.planner.complete import tell_of
from partitiond.planner.greedy import drop_surplus
from partitiond.planner.improve import FIXED_STEPS_PER_SECOND, Improver, Schedule
from partitiond.planner.members import KEPT, Member, member
from partitiond.planner.moves import price_of_a_move
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Watch
from partitiond.planner.running import running_packing, staying_items
from partitiond.planner.sites import build_sites

REPAIR_SHARE: Final = 0.4
"""Share of the time for improving what runs, where something does."""
BUDGET_SHARE: Final = 0.8
"""The same where moves are limited: what is found afresh hardly ever keeps to the limit."""
FEW_MOVES: Final = 3
"""So many moves are less than a device, at the usual price."""
MOVED_SHARE: Final = 0.03
"""Share of what runs that a second search may move."""


def kept(watch: Watch, *, by_cost: bool) -> tuple[list[Member], int | None]:
    """What runs, completed and improved, and how much a plan may move."""
    instance = watch.instance
    staying = staying_items(instance)
    if not staying:
        return [], None
    runs = collections.defaultdict[int, collections.Counter[int]](collections.Counter)
    for index, item, _ in staying:
        runs[index][item] += 1
    start = running_packing(instance, staying)
    drop_surplus(start, rated_only=True)
    start.settle()
    repaired = _searched(watch, start, runs, most_gone=0, seconds=0.0, by_cost=by_cost)
    if repaired is None:
        return [], None
    there = len(instance.request.running) - replicas_kept(instance, repaired)
    share = instance.request.move_budget
    budget = None if share is None else there + math.floor(share * len(instance.request.running))
    members = [member(KEPT, repaired.copy())]
    tell_of(watch, members[-1], by_cost=by_cost)
    limits = _limits(watch, there, budget)
    share_of_time = REPAIR_SHARE if budget is None else BUDGET_SHARE
    seconds = share_of_time * watch.left() / max(1, len(limits))
    must = len(instance.request.running) - len(staying)
    for most in limits:
        better = _searched(
            watch, repaired, runs, most_gone=max(0, most - must), seconds=seconds, by_cost=by_cost
        )
        if better is not None:
            members.append(member(f"{KEPT}, improved", better))
            tell_of(watch, members[-1], by_cost=by_cost)
    return members, budget


def _limits(watch: Watch, there: int, budget: int | None) -> list[int]:
    """How many replicas may leave their device in each search from the repair."""
    if watch.done:
        return []
    if budget is not None:
        return [budget]
    request = watch.instance.request
    if not price_of_a_move(request, watch.objective):
        return []
    return [there + FEW_MOVES, there + math.ceil(MOVED_SHARE * len(request.running))]


def _searched(
    watch: Watch,
    start: Packing,
    runs: Mapping[int, collections.Counter[int]],
    *,
    most_gone: int,
    seconds: float,
    by_cost: bool,
) -> Packing | None:
    """What is found from a packing while so many running replicas leave their device."""
    sites, seed = build_sites(watch.instance), watch.instance.request.seed
    improver = Improver(sites, by_cost=by_cost, seed=seed, runs=runs, most_gone=most_gone)
    improver.start(start)
    steps = round(FIXED_STEPS_PER_SECOND * seconds) if watch.fixed else None
    if seconds > 0:
        improver.run(
            Schedule(time.monotonic(), seconds, steps),
            halt=lambda: watch.done or watch.left() <= 0,
            tell=lambda _: None,
        )
    return improver.best() if improver.found else None
