"""Completes the running replicas to a plan, then improves it while few replicas move.

A fresh plan is a little better but reloads four replicas in five. So the running replicas that
still fit stay, replicas that no demand needs any more are stopped, and what is missing is placed
beside them, including the replicas of devices that are gone or cordoned. A search then approaches
the best plan with a limit on the replicas that leave their device. Load i of every packing here is
device i of the request, so leaving a device is a move.
"""

import math
from typing import Final

from partitiond.planner.model.sites import Floats, build_sites
from partitiond.planner.model.solver_costs import charges_replicas
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete, in_order, most_goodput
from partitiond.planner.pack.members import EPSILON, KEPT, Member, drop_surplus, member, rank
from partitiond.planner.pack.moves import moves_of, price_of_a_move
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import running_packing, staying_items
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.stop import Stop, never

KEPT_SHARE: Final = 0.4
"""Share of the time for improving what runs, if anything runs. Chosen, not measured."""
COMPLETED_SHARE: Final = 0.3
"""Share of the time for completing what runs, for goodput. The search adds replicas faster: without
a limit `bench.planner.replanning --kinds over --size 300x128` took 37 s instead of 3 s."""
FEW_MOVES: Final = 3
"""This many moves cost less than a device, at the usual price (`core.plan.record.MOVE_PRICE`)."""
MOVED_SHARE: Final = 0.03
"""Share of the running replicas that a search in a large fleet may move. Chosen, not measured."""
FEW_DEVICES: Final = 64
"""Devices up to which several limits on moves are tried."""


def completed(instance: Instance, worth: Floats, *, by_cost: bool, stop: Stop = never) -> Packing:
    """Return the running replicas, without surplus and with what is missing, with next to no moves.

    What has no room that way stays missing (`Packing.lacking`).

    Args:
        instance: the problem instance, with the running replicas in its request.
        worth: (E,) what one replica of each entry takes.
        by_cost: True to serve all demand; False to maximise goodput.
        stop: called periodically; True ends with what was added so far.
    """
    packing = running_packing(instance)
    drop_surplus(packing, rated_only=not (by_cost and charges_replicas(instance.request)))
    packing.settle()
    adding = Adding(packing, worth, opens_last=by_cost, stop=stop)
    if by_cost:
        complete(adding, in_order(adding), stop)
        drop_surplus(packing, rated_only=True)
    else:
        most_goodput(adding, in_order(adding), stop)
    return packing


def kept(watch: SolveMonitor, worth: Floats, *, by_cost: bool, searches: bool) -> list[Member]:
    """Complete and improve the running replicas; return the plans made from them.

    Args:
        watch: the problem instance, the clock and the progress callback.
        worth: (E,) what one replica of each entry takes.
        by_cost: True to serve all demand; False to maximise goodput.
        searches: whether compiled code may improve the plan.
    """
    instance = watch.instance
    if not staying_items(instance):
        return []
    # What lacks something is an answer for goodput only: for the least cost no clock ends it.
    stop = watch.stop if by_cost else watch.within(COMPLETED_SHARE)
    start = completed(instance, worth, by_cost=by_cost, stop=stop)
    if by_cost and start.lacking():
        return []
    there = moves_of(instance, start)
    members = [member(KEPT, start.copy())]
    watch.take(members)
    limits = _limits(watch, members[0].packing, there, by_cost=by_cost)
    if not searches:
        limits = []
    seconds = KEPT_SHARE * watch.left() / max(1, len(limits))
    for most in limits:
        if watch.done or watch.stop():
            break
        better = improve(watch, start, worth, most_moves=most, seconds=seconds, by_cost=by_cost)
        members.append(member(f"{KEPT}, improved", better))
        watch.take(members[-1:])
    return members


def _limits(watch: SolveMonitor, start: Packing, there: int, *, by_cost: bool) -> list[int | None]:
    """Return the limits on replicas that leave their device, one for each search to be made.

    If moves have a price, more moves than the gain left by the bound cannot pay. A few moves are
    tried first, because a search that may move many replicas saves a device only by moving many.
    """
    if watch.done:
        return []
    running, bound = len(watch.instance.request.running), watch.bound
    price = price_of_a_move(watch.instance.request, watch.objective)
    if not price:
        return [None]
    few = len(watch.instance.group_of) <= FEW_DEVICES
    paying = running if few else math.ceil(MOVED_SHARE * running)
    if bound is not None:
        gain = start.cost() - bound if by_cost else 1 - start.goodput() / max(bound, EPSILON)
        paying = min(math.floor(gain / price + EPSILON), paying)
    if paying <= 0:
        return []
    # No moves first: such a plan also has no outage, which a better plan may have.
    tried = [0, *(FEW_MOVES << k for k in range(running.bit_length()) if FEW_MOVES << k < paying)]
    tried = [*tried, paying] if few else [min(FEW_MOVES, paying), paying]
    return [*dict.fromkeys(there + n for n in tried)]


def improve(
    watch: SolveMonitor,
    start: Packing,
    worth: Floats,
    *,
    most_moves: int | None,
    seconds: float,
    by_cost: bool,
) -> Packing:
    """Return the packing, or a better one in which at most `most_moves` replicas leave a device.

    Better means cheaper if everything is served, else of more worth.

    Args:
        watch: the problem instance and the clock.
        start: the packing to start from; by cost it must lack nothing.
        worth: (E,) what one replica of each entry takes.
        most_moves: limit on the moves; None for no limit.
        seconds: time of the search; a deterministic request takes an equivalent number of steps.
        by_cost: True to serve all demand; False to maximise goodput.
    """
    instance = watch.instance
    runs = [(index, item) for index, item, _ in staying_items(instance)]
    gone = len(instance.request.running) - len(runs)
    most = None if most_moves is None else max(0, most_moves - gone)
    improver = Improver(
        build_sites(instance),
        worth,
        by_cost=by_cost,
        seed=instance.request.seed,
        runs=runs,
        most_gone=most,
    )
    improver.start(start)
    improver.run(seconds, halt=lambda: watch.done or watch.left() <= 0)
    found = improver.best() if improver.has_answer else start
    return min(start, found, key=lambda p: rank(p, by_cost))
