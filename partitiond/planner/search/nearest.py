"""Chooses among plans: shares out spare capacity, then takes the best after the price of moves.

Of equally good plans it takes the one that loads the fewest weights.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.plan.choices import EARLY_MOVES, Against
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.exact import MAX_VARIABLES, Goal, solve_exact, variable_count
from partitiond.planner.model.costs import charges_replicas, true_value
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.adding import Adding, fill, share_value
from partitiond.planner.pack.assign import applied
from partitiond.planner.pack.complete import in_order, most_goodput
from partitiond.planner.pack.members import (
    EPSILON,
    EXACT_WITH_MOVES,
    KEPT,
    Member,
    drop_surplus,
    member,
)
from partitiond.planner.pack.moves import count_of_moves, price_of_a_move, with_moves, with_price
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import restore, staying_items
from partitiond.planner.progress.answer import SeenPlan
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.priorities import goodput_key, lexicographic, values_of
from partitiond.planner.search.without_outage import OUTAGE
from partitiond.planner.stop import Stop

May = Callable[[Packing], int]
"""Returns the objection to a packing as the answer: 0 none, 1 if it stops replicas early, `OUTAGE`
the strongest."""
MOST_AFRESH: Final = 4
"""Limit on plans made without regard to what runs whose moves are counted: for a large fleet that
takes a fraction of a second each, and such plans move most of the fleet. Chosen, not measured."""
FEW_DEVICES: Final = 64
"""Devices up to which the moves of all plans are counted. Chosen, not measured."""
EQUAL: Final = 1e-6
NEAR_SHARE: Final = 0.05
"""Relative tolerance for shares of models without a rate, worth less than a restart. Chosen."""
SHARE_SHARE: Final = 0.1
"""Deterministic seconds for the shares per second of the time limit. Chosen, not measured."""
EXACT_SHARE: Final = 0.4
"""Share of the time left for building the shares' model, and as much for solving it. Chosen."""
VARIABLES: Final = 5_000
"""Number of variables that are made in a second, on a core that is shared."""


def _within_moves(instance: Instance, members: list[Member], most: int | None) -> list[Member]:
    """Return members within the limit on moves; if there are none, the one that moves least."""
    if most is None:
        return members
    there = len(instance.request.running)
    moves = {id(m): there - applied(instance, m.packing).kept.total() for m in members}
    few = [m for m in members if moves[id(m)] <= most]
    return few or [min(members, key=lambda m: moves[id(m)])]


def nearest_cost(
    watch: SolveMonitor, members: list[Member], most_moves: int | None, *, may: May, stop: Stop
) -> tuple[Member, tuple[SeenPlan, ...]]:
    """Fill spare capacity; then choose the least cost with moves, then the fewest bytes to load.

    Args:
        watch: the problem and the clock; once the time is over, no more capacity is shared out.
        members: plans that all serve everything.
        most_moves: limit on the replicas that a plan may move; None for no limit.
        may: the objection to a packing: the best packing among those with the least is chosen.
        stop: True ends looking for further plans to report.

    Returns:
        The chosen plan, and the plans it was chosen from, as `Found.seen`.
    """
    instance = watch.instance
    staying = bool(staying_items(instance))
    looks = _worth_a_look(instance, _within_moves(instance, members, most_moves), cost=True)
    filled = [_filled(instance, one, watch.over, may_open=False) for one in looks]
    shared = _exact_share(watch, max(filled, key=lambda m: share_value(m.packing)))
    if shared is not None:
        filled.append(shared)
    ranks, seen = [], []
    for one in filled:
        done, own = applied(instance, one.packing), one.packing.cost()
        value = true_value(instance.request, own)
        seen.append(SeenPlan(one.packing, value, count_of_moves(instance, done)))
        # Ties by the devices' prices are part of the cost, but no reason to load weights.
        cost = value if staying else own
        cost = with_price(instance, instance.request.objective, cost, done)
        ranks.append((cost, share_value(one.packing), done.load_bytes if staying else 0, own, one))
    least = min(rank[0] for rank in ranks)
    fair = max(share for cost, share, *_ in ranks if cost <= least + EQUAL)
    enough = fair * (1 - NEAR_SHARE) - EPSILON

    def key(rank: tuple[float, float, int, float, Member]) -> tuple[float, ...]:
        cost, share, load_bytes, own, _ = rank
        near = 0.0 if cost <= least + EQUAL else cost
        return (near, share < enough, load_bytes, own, -share)

    ranked = [rank[-1] for rank in sorted(ranks, key=key)]
    best = min(members, key=lambda m: m.packing.cost())
    return _taken(ranked, seen, best, may, stop, cost=True)


def _filled(instance: Instance, one: Member, stop: Stop, *, may_open: bool) -> Member:
    """Return a plan with models without a rate where they ran, and filling the spare capacity.

    If replicas are part of the cost, each one more makes the plan worse, so none is added. For
    goodput no demand is left that one more replica would serve.
    """
    packing = one.packing.copy()
    if may_open and not stop():
        adding = Adding(packing, usual_prices(build_sites(instance)), stop=stop)
        placed = -1
        while placed != sum(packing.counts.values()):  # what became surplus left a place
            most_goodput(adding, in_order(adding), stop)
            placed = sum(packing.counts.values())
            member(one.name, packing)
    if not may_open and charges_replicas(instance.request):
        drop_surplus(packing)
    elif any(not need.rated for need in instance.needs):
        restore(packing, may_open=may_open)
        fill(packing, range(len(packing.loads)) if may_open else packing.used(), stop)
    return member(one.name, packing)


def _worth_a_look(instance: Instance, members: Sequence[Member], *, cost: bool) -> list[Member]:
    """Return the plans with the best value; if something runs, also those made from it."""
    best = sorted(members, key=lambda m: m.packing.cost() if cost else -m.packing.goodput())
    if not staying_items(instance):
        # The shares of models without a rate count only among equally good plans.
        most, shares = best[0].packing.cost() + EQUAL, any(not n.rated for n in instance.needs)
        return [m for m in best if m.packing.cost() <= most] if shares else best[:1]
    near = [m for m in members if m.name.startswith((KEPT, EXACT_WITH_MOVES))]
    afresh = [m for m in best if m not in near]
    few = len(instance.group_of) <= FEW_DEVICES
    return [*near, *(afresh if few else afresh[:MOST_AFRESH])]


def spoken_against(ranked: Sequence[Packing], may: May) -> list[int]:
    """Return the objection to each packing, up to the first packing without one."""
    told = []
    for packing in ranked:
        told.append(may(packing))
        if not told[-1]:
            break
    return told


def least_against(told: Sequence[int], worth: Callable[[int, int], float]) -> int:
    """Return the first position with the least objection, or the first one that stops replicas
    early, if that one is better even with `EARLY_MOVES` more moves.

    Args:
        told: objections as `spoken_against` returns them.
        worth: worth of the plan at a position if it moved so many more replicas; more is better.
    """
    least = told.index(min(told))
    early = told.index(1) if 1 in told else least
    return early if worth(early, EARLY_MOVES) > worth(least, 0) else least


def _taken(
    ranked: Sequence[Member],
    seen: list[SeenPlan],
    best: Member,
    may: May,
    stop: Stop,
    *,
    cost: bool,
) -> tuple[Member, tuple[SeenPlan, ...]]:
    """Return the plan that `least_against` selects, and plans between which only the price of a
    move decides, those with the best value first.

    The latter exclude plans with an outage, and plans that move as much as a plan that is as good.
    Checking for outages takes a while in large fleets: once the time is over, plans whose outages
    are not known yet are left out.

    Args:
        ranked: plans that may be chosen, the best after the price of moves first.
        seen: the same plans in the form in which they are reported.
        best: the plan with the best value; it may move more than is allowed.
        may: the objection to a packing.
        stop: True if the time is over.
        cost: whether a smaller value is better.
    """
    told = spoken_against([one.packing for one in ranked], may)
    own, as_seen = best.packing, {id(one.packing): one for one in seen}
    instance, objective = own.instance, Objective.MAX_GOODPUT
    objective = instance.request.objective if cost else objective
    price = price_of_a_move(instance.request, objective)

    def worth(at: int, more: int) -> float:
        one = as_seen[id(ranked[at].packing)]
        return -sign * with_moves(objective, one.value, one.moves + more, price)

    sign = 1 if cost else -1
    chosen = ranked[least_against(told, worth)]
    if not staying_items(instance):
        return chosen, ()
    known = {id(one.packing): against for one, against in zip(ranked, told, strict=False)}
    value = true_value(instance.request, own.cost()) if cost else own.goodput()
    if sign * value < min(sign * one.value for one in seen) - EQUAL * abs(value) and not stop():
        moves = count_of_moves(instance, applied(instance, own))
        seen.append(SeenPlan(own, value, moves, Against.MOVE_BUDGET))
    found: list[SeenPlan] = []
    fewest = dict[Against | None, float].fromkeys([None, *Against], math.inf)
    for one in sorted(seen, key=lambda s: (sign * s.value, s.moves)):
        speaks = known.get(id(one.packing))
        if one.moves >= fewest[None] or (speaks is None and stop()):
            continue
        speaks = may(one.packing) if speaks is None else speaks
        if speaks >= OUTAGE:
            continue
        against = one.against or (Against.NEEDLESS_STOP if speaks else None)
        if one.moves < fewest[against] or one.packing is chosen.packing:
            found.append(dataclasses.replace(one, against=against))
        fewest[against] = min(fewest[against], one.moves)
    return chosen, tuple(found)


def _exact_share(watch: SolveMonitor, best: Member) -> Member | None:
    """Solve the even shares exactly on the devices that the best plan uses."""
    instance, devices = watch.instance, best.packing.used()
    unrated = [need for need in instance.needs if not need.rated]
    if not unrated or charges_replicas(instance.request) or not devices:
        return None
    wall_seconds = EXACT_SHARE * watch.rest()
    if variable_count(instance, devices) > min(MAX_VARIABLES, VARIABLES * wall_seconds):
        return None
    found = solve_exact(
        instance,
        Goal.SHARE,
        devices,
        best.packing,
        deterministic_seconds=SHARE_SHARE
        * min(instance.request.time_limit_seconds, watch.left() + 1),
        wall_seconds=wall_seconds,
        cost_limit=best.packing.cost_units(),
        stop=watch.stop,
    )
    return None if found.packing is None else member(best.name, found.packing)


def nearest_goodput(
    instance: Instance, members: list[Member], most_moves: int | None, *, may: May, stop: Stop
) -> tuple[Member, tuple[SeenPlan, ...]]:
    """Choose as `nearest_cost` does, with goodput as the value and all devices to fill."""
    staying = staying_items(instance)
    allowed = _within_moves(instance, members, most_moves)
    short = min(m.packing.short_replicas() for m in allowed)
    close = [m for m in allowed if m.packing.short_replicas() == short]
    best = max(members, key=goodput_key)
    if short > best.packing.short_replicas():
        # It has more of the least replicas, so its goodput cannot be compared with these.
        best = max(close, key=goodput_key)
    close = _worth_a_look(instance, close, cost=False) if staying else [max(close, key=goodput_key)]
    if any(need.rated for need in instance.needs):  # else all running replicas count as goodput
        close = [_filled(instance, one, stop, may_open=True) for one in close]
    ranks, seen = [], []
    for one in close:
        done, goodput = applied(instance, one.packing), one.packing.goodput()
        seen.append(SeenPlan(one.packing, goodput, count_of_moves(instance, done)))
        worth = [
            -with_price(instance, Objective.MAX_GOODPUT, value, done)
            for value in values_of(one.packing)
        ]
        load = done.load_bytes if staying else 0
        ranks.append((lexicographic(worth), load, -goodput, one))
    ranks.sort(key=lambda rank: rank[:3])
    ranked = [rank[3] for rank in ranks]
    return _taken(ranked, seen, best, may, stop, cost=False)
