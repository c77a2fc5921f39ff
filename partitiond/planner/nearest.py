"""Among plans: what is left over is shared out, and the best with the price of its moves is taken.

Of plans as good the one that loads the fewest weights is taken.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.plan import Objective
from partitiond.core.plan_choices import EARLY_MOVES, Against
from partitiond.planner.assign import applied
from partitiond.planner.costs import charges_replicas, true_value
from partitiond.planner.exact import MAX_VARIABLES, Goal, solve_exact, variable_count
from partitiond.planner.found import Seen
from partitiond.planner.members import EPSILON, EXACT_WITH_MOVES, KEPT, Member, drop_surplus, member
from partitiond.planner.moves import count_of_moves, price_of_a_move, with_moves, with_price
from partitiond.planner.packing import Packing
from partitiond.planner.priorities import goodput_key, lexicographic, values_of
from partitiond.planner.progress import Stop, Watch
from partitiond.planner.running import restore, staying_items
from partitiond.planner.share import fill, share_value
from partitiond.planner.types import Instance
from partitiond.planner.without_outage import OUTAGE

May = Callable[[Packing], int]
"""What speaks against a packing as the answer: 0 nothing, 1 that it stops replicas early, `OUTAGE`
most."""
MOST_AFRESH: Final = 4
"""Plans that were made without looking at what runs, of which moves are counted: of a large fleet
that takes a part of a second each, and they move most of it."""
FEW_DEVICES: Final = 64
"""Devices up to which the moves of all of them are counted."""
EQUAL: Final = 1e-6
NEAR_SHARE: Final = 0.05
"""The same for the shares of models without a rate, which are worth less than a restart."""
SHARE_SHARE: Final = 0.1
"""Deterministic seconds for the shares per second of the time limit."""
EXACT_SHARE: Final = 0.4
"""Of the time until the limit, for making the model of the shares, and as much for solving it."""
VARIABLES: Final = 5_000
"""So many are made in a second, on a core that is shared."""


def _within_moves(instance: Instance, members: list[Member], most: int | None) -> list[Member]:
    """Those that move no more than allowed; the one that moves least where none does."""
    if most is None:
        return members
    there = len(instance.request.running)
    moves = {id(m): there - applied(instance, m.packing).kept.total() for m in members}
    few = [m for m in members if moves[id(m)] <= most]
    return few or [min(members, key=lambda m: moves[id(m)])]


def nearest_cost(
    watch: Watch, members: list[Member], most_moves: int | None, *, may: May, stop: Stop
) -> tuple[Member, tuple[Seen, ...]]:
    """Fill what is left over; then the least cost with moves, then the fewest bytes to load.

    Args:
        watch: the question and the clock: when its time is over, nothing more is shared out.
        members: plans; all serve everything.
        most_moves: replicas that a plan may move; None for no limit.
        may: what speaks against a packing: of those with least, the best is taken.
        stop: says when enough was told.

    Returns:
        The plan that is taken, and what it was chosen from, as `Found.seen`.
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
        seen.append(Seen(one.packing, value, count_of_moves(instance, done)))
        # Ties by the devices' prices are part of the cost, and no reason to load anything.
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
    """A plan whose models without a rate run where they ran, and fill what is left over.

    Where replicas are part of the cost each further one makes the plan worse: it has none then.
    """
    packing = one.packing.copy()
    if not may_open and charges_replicas(instance.request):
        drop_surplus(packing)
    elif any(not need.rated for need in instance.needs):
        restore(packing, may_open=may_open)
        fill(packing, range(len(packing.loads)) if may_open else packing.used(), stop)
    return member(one.name, packing)


def _worth_a_look(instance: Instance, members: Sequence[Member], *, cost: bool) -> list[Member]:
    """The best by themselves; where something runs, also those that were made from it."""
    best = sorted(members, key=lambda m: m.packing.cost() if cost else -m.packing.goodput())
    if not staying_items(instance):
        # Only among plans as good does it count what models without a rate get.
        most, shares = best[0].packing.cost() + EQUAL, any(not n.rated for n in instance.needs)
        return [m for m in best if m.packing.cost() <= most] if shares else best[:1]
    near = [m for m in members if m.name.startswith((KEPT, EXACT_WITH_MOVES))]
    afresh = [m for m in best if m not in near]
    few = len(instance.group_of) <= FEW_DEVICES
    return [*near, *(afresh if few else afresh[:MOST_AFRESH])]


def spoken_against(ranked: Sequence[Packing], may: May) -> list[int]:
    """What speaks against each, up to the first against which nothing does."""
    told = []
    for packing in ranked:
        told.append(may(packing))
        if not told[-1]:
            break
    return told


def least_against(told: Sequence[int], worth: Callable[[int, int], float]) -> int:
    """The first of those against which least speaks, or the first one that stops replicas early,
    where that is better with `EARLY_MOVES` more.

    Args:
        told: as `spoken_against` tells it.
        worth: of the plan at a position, were it to move so many replicas more: more is better.
    """
    least = told.index(min(told))
    early = told.index(1) if 1 in told else least
    return early if worth(early, EARLY_MOVES) > worth(least, 0) else least


def _taken(
    ranked: Sequence[Member],
    seen: list[Seen],
    best: Member,
    may: May,
    stop: Stop,
    *,
    cost: bool,
) -> tuple[Member, tuple[Seen, ...]]:
    """The one that `least_against` says, and plans between which only the price of a move decides,
    the best by themselves first.

    None is among these that is no better than another one and moves as much, or that has an outage.
    To ask for outages takes a while for large fleets: where the time is over, those are left out of
    which it is not known.

    Args:
        ranked: plans that may be taken, the best with the price of its moves first.
        seen: the same as they are told.
        best: the best plan by itself; it may move more than is allowed.
        may: what speaks against a packing.
        stop: says when the time is over.
        cost: whether less of the value is better.
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
        seen.append(Seen(own, value, moves, Against.MOVE_BUDGET))
    found: list[Seen] = []
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


def _exact_share(watch: Watch, best: Member) -> Member | None:
    """The even share solved exactly on the devices that the best plan uses."""
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
) -> tuple[Member, tuple[Seen, ...]]:
    """As `nearest_cost`, with goodput as the value and all devices to fill."""
    staying = staying_items(instance)
    allowed = _within_moves(instance, members, most_moves)
    short = min(m.packing.short_replicas() for m in allowed)
    close = [m for m in allowed if m.packing.short_replicas() == short]
    best = max(members, key=goodput_key)
    if short > best.packing.short_replicas():
        # It has more of the least replicas, and its goodput says nothing about these.
        best = max(close, key=goodput_key)
    close = _worth_a_look(instance, close, cost=False) if staying else [max(close, key=goodput_key)]
    if any(need.rated for need in instance.needs):  # else all that runs is goodput already
        close = [_filled(instance, one, stop, may_open=True) for one in close]
    ranks, seen = [], []
    for one in close:
        done, goodput = applied(instance, one.packing), one.packing.goodput()
        seen.append(Seen(one.packing, goodput, count_of_moves(instance, done)))
        worth = [
            -with_price(instance, Objective.MAX_GOODPUT, value, done)
            for value in values_of(one.packing)
        ]
        load = done.load_bytes if staying else 0
        ranks.append((lexicographic(worth), load, -goodput, one))
    ranks.sort(key=lambda rank: rank[:3])
    ranked = [rank[3] for rank in ranks]
    return _taken(ranked, seen, best, may, stop, cost=False)
