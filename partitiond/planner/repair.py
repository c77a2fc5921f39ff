"""Re-planning: what runs, repaired, and then improved within a budget of moves.

A fresh plan is a little better and reloads four replicas in five. A repair keeps everything that
still fits where it is, stops what no demand needs any more, and places what is missing by prices;
what was on a device that is gone or cordoned is among that. Then a search tries to come closer to
the best plan while at most so many replicas leave their device. Load i of every packing here is
device i of the request, so that leaving a device means a move.

For the portfolio: `repair_start` gives a member that nearly nothing has to move for, and
`improve_within` makes it better; `moves_of` and `allowed_moves` say what that costs and may cost.
"""

import collections
import math
import random
import time
from typing import Final

from partitiond.planner.bound import Bound, bound_cost, bound_goodput
from partitiond.planner.greedy import (
    Guide,
    Strategy,
    cover,
    drop_surplus,
    empty_devices,
    in_order,
    most_goodput,
)
from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing
from partitiond.planner.ruled import place_ruled
from partitiond.planner.running import put_back, running_packing, staying_items

SMALL: Final = 64
"""Devices up to which emptying them one after the other takes a tenth of a second; the search does
the same with more."""
FIXED_STEPS: Final = 40_000
"""Steps where the answer may not depend on the clock."""


def repair_start(
    instance: Instance, bound: Bound | None = None, *, by_cost: bool = True
) -> Packing:
    """What runs, without what is not needed and with what is missing, moving next to nothing.

    Where the devices cannot hold it all that way, models without a rate give back what they hold
    beyond their least number; what is lacking after that is left lacking (`Packing.lacking`).

    Args:
        instance: the question, with what runs in its request.
        bound: prices; None to compute them.
        by_cost: whether everything is to be served, or goodput counts.
    """
    if bound is None:
        bound = bound_cost(instance) if by_cost else bound_goodput(instance)
    guide = Guide(instance, bound)
    best: Packing | None = None
    for start in (_all_that_runs, _what_is_needed):
        packing = _completed(instance, guide, start(instance), by_cost=by_cost)
        if best is None or _key(packing, by_cost=by_cost) < _key(best, by_cost=by_cost):
            best = packing
        # With rates only, both starts are the same but for what the first one drops anyway.
        if not packing.lacking() or (not by_cost and all(n.rated for n in instance.needs)):
            break
    assert best is not None, "there are two starts"
    return best


def _all_that_runs(instance: Instance) -> Packing:
    return running_packing(instance, staying_items(instance))


def _what_is_needed(instance: Instance) -> Packing:
    """Of what runs only what demands and least numbers ask for."""
    packing = Packing(instance)
    needs = {need.model: need for need in instance.needs}
    most = {need.model: need.max_replicas for need in instance.needs}
    for index, item, _ in staying_items(instance):
        need = needs.get(instance.items[item].model)
        if need is None or (
            packing.counts[need.model] >= need.min_replicas
            and packing.rates[need.model] >= need.rate
        ):
            continue
        put_back(packing, index, item, most)
    return packing


def _completed(instance: Instance, guide: Guide, start: Packing, *, by_cost: bool) -> Packing:
    packing = start
    drop_surplus(packing, rated_only=True)
    packing.settle()
    place_ruled(packing)
    rng = random.Random(instance.request.seed)  # noqa: S311
    if not by_cost:
        return most_goodput(instance, guide, packing, Strategy(0.0, 0.0), rng)
    for need in in_order(instance, guide, 0.0, rng):
        cover(packing, guide, [need], 0.0, may_open=True)
    drop_surplus(packing, rated_only=True)
    return packing


def _key(packing: Packing, *, by_cost: bool) -> tuple[float, ...]:
    """What is better of two repairs: less."""
    lacking = len(packing.lacking()) if by_cost else 0
    return (packing.short_replicas(), lacking, -packing.goodput())


def moves_of(instance: Instance, packing: Packing) -> int:
    """Running replicas that are not where they run: stopped, moved, or started anew elsewhere."""
    runs = _runs(instance)
    stays = sum(
        sum((collections.Counter(packing.loads[index].items) & items).values())
        for index, items in runs.items()
    )
    return len(instance.request.running) - stays


def _runs(instance: Instance) -> dict[int, collections.Counter[int]]:
    """Items that run on each device and could stay."""
    found: dict[int, collections.Counter[int]] = {}
    for index, item, _ in staying_items(instance):
        found.setdefault(index, collections.Counter())[item] += 1
    return found


def allowed_moves(instance: Instance, repaired: Packing) -> int | None:
    """Running replicas that may leave their device: the repair's, and the budget of the request.

    None where the request sets no budget.
    """
    share = instance.request.move_budget
    if share is None:
        return None
    return moves_of(instance, repaired) + math.floor(share * len(instance.request.running))


def improve_within(
    instance: Instance,
    packing: Packing,
    bound: Bound,
    *,
    most_moves: int | None,
    seconds: float,
    by_cost: bool = True,
) -> Packing:
    """The packing, or a better one in which at most `most_moves` replicas leave their device.

    Better is cheaper where everything is served, else worth more. Models whose rules go beyond
    one device stay where the packing has them.

    Args:
        instance: the question.
        packing: where to start; where everything is to be served one that lacks nothing.
        bound: prices.
        most_moves: None for no limit.
        seconds: of search; a deterministic request takes a fixed number of steps instead.
        by_cost: whether everything is to be served, or goodput counts.
    """
    start = packing.copy()
    if by_cost and start.lacking():
        return start
    guide = Guide(instance, bound)
    if by_cost and len(start.used()) <= SMALL:
        start = _emptied(instance, guide, start, most_moves)
    return _searched(instance, start, most_moves, seconds, by_cost=by_cost)


def _emptied(instance: Instance, guide: Guide, packing: Packing, most_moves: int | None) -> Packing:
    """Without the devices that the others can hold the replicas of, while moves allow it."""
    order = in_order(instance, guide, 0.0, random.Random(instance.request.seed))  # noqa: S311
    trial = packing.copy()
    empty_devices(trial, guide, order)
    if most_moves is not None and moves_of(instance, trial) > most_moves:
        return packing
    return trial if not trial.lacking() and trial.cost_units() <= packing.cost_units() else packing


def _searched(
    instance: Instance,
    packing: Packing,
    most_moves: int | None,
    seconds: float,
    *,
    by_cost: bool,
) -> Packing:
    # The compiled search takes a second to load: not for nothing.
    from partitiond.planner.improve import Improver, Schedule
    from partitiond.planner.sites import build_sites

    request = instance.request
    if seconds <= 0 and not request.deterministic:
        return packing
    runs = _runs(instance)
    gone = len(request.running) - sum(items.total() for items in runs.values())
    most = len(request.running) if most_moves is None else most_moves
    improver = Improver(
        build_sites(instance),
        by_cost=by_cost,
        seed=request.seed,
        runs=runs,
        most_gone=max(0, most - gone),
    )
    improver.start(packing)
    began = time.monotonic()
    improver.run(
        Schedule(began, seconds, FIXED_STEPS if request.deterministic else None),
        halt=lambda: False,
        tell=lambda _: None,
    )
    found = improver.best() if improver.found else None
    if found is None or (by_cost and found.lacking()):
        return packing
    better = (
        found.cost_units() < packing.cost_units()
        if by_cost
        else (-found.short_replicas(), found.goodput())
        > (-packing.short_replicas(), packing.goodput())
    )
    return found if better else packing
