"""Among plans: what is left over is shared out, and the best with the price of its moves is taken.

Of plans as good the one that loads the fewest weights is taken.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.plan import Objective
from partitiond.planner.assign import applied, replicas_kept
from partitiond.planner.costs import true_value
from partitiond.planner.exact import MAX_VARIABLES, Goal, solve_exact, variable_count
from partitiond.planner.greedy import Guide
from partitiond.planner.instance import Instance
from partitiond.planner.members import EPSILON, EXACT_WITH_MOVES, KEPT, Member, member
from partitiond.planner.moves import with_price
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Stop, never
from partitiond.planner.running import restore, staying_items
from partitiond.planner.share import fill, share_value

May = Callable[[Packing], int]
"""What speaks against a packing as the answer: 0 nothing, more is worse."""
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


def within_moves(instance: Instance, members: list[Member], most: int | None) -> list[Member]:
    """Those that move no more than allowed; the one that moves least where none does."""
    if most is None:
        return members
    there = len(instance.request.running)
    moves = {id(m): there - replicas_kept(instance, m.packing) for m in members}
    few = [m for m in members if moves[id(m)] <= most]
    return few or [min(members, key=lambda m: moves[id(m)])]


def anything(_packing: Packing) -> int:
    """Nothing speaks against any packing."""
    return 0


def priced_cost(instance: Instance, packing: Packing) -> float:
    """The cost of a packing with the price of its moves."""
    objective = instance.request.objective
    return with_price(instance, objective, packing.cost(), applied(instance, packing))


def nearest_cost(
    instance: Instance,
    members: list[Member],
    guide: Guide,
    seconds: float,
    *,
    may: May = anything,
    stop: Stop = never,
) -> Member:
    """Fill what is left over; then the least cost with moves, then the fewest bytes to load.

    Args:
        instance: the question.
        members: plans that may be taken; all serve everything.
        guide: prices.
        seconds: for sharing out what is left over.
        may: what speaks against a packing: of those with least, the best is taken.
        stop: says when enough was filled.
    """
    staying = staying_items(instance)
    unrated = any(not need.rated for need in instance.needs)
    filled = []
    for one in _worth_a_look(instance, members, cost=True):
        packing = one.packing.copy()
        if unrated:
            restore(packing, staying, may_open=False)
            fill(packing, guide, packing.used(), stop)
        filled.append(member(one.name, packing))
    shared = _exact_share(
        instance, max(filled, key=lambda m: share_value(m.packing)), seconds, stop
    )
    if shared is not None:
        filled.append(shared)
    ranks = []
    for one in filled:
        done = applied(instance, one.packing)
        # Ties by the devices' prices are part of the cost, and no reason to load anything.
        cost = true_value(instance.request, one.packing.cost()) if staying else one.packing.cost()
        cost = with_price(instance, instance.request.objective, cost, done)
        ranks.append((cost, done.load_bytes if staying else 0, one))
    least = min(cost for cost, _, _ in ranks)
    fair = max(share_value(m.packing) for cost, _, m in ranks if cost <= least + EQUAL)
    enough = fair * (1 - NEAR_SHARE) - EPSILON
    ranks.sort(
        key=lambda rank: (
            0.0 if rank[0] <= least + EQUAL else rank[0],
            share_value(rank[2].packing) < enough,
            rank[1],
            rank[2].packing.cost(),
            -share_value(rank[2].packing),
        )
    )
    return ranks[first_that_may([one.packing for _, _, one in ranks], may)][2]


def _worth_a_look(instance: Instance, members: Sequence[Member], *, cost: bool) -> list[Member]:
    """The best by themselves; where something runs, also those that were made from it."""
    best = sorted(members, key=lambda m: m.packing.cost() if cost else m.packing.goodput())
    best = best if cost else best[::-1]
    if not staying_items(instance):
        return best if any(not need.rated for need in instance.needs) else best[:1]
    near = [m for m in members if m.name.startswith((KEPT, EXACT_WITH_MOVES))]
    afresh = [m for m in best if m not in near]
    few = len(instance.group_of) <= FEW_DEVICES
    return [*near, *(afresh if few else afresh[:MOST_AFRESH])]


def first_that_may(ranked: Sequence[Packing], may: May) -> int:
    """The place in the list of the best packing against which least speaks."""
    worst, chosen = math.inf, 0
    for place, packing in enumerate(ranked):
        against = may(packing)
        if against < worst:
            worst, chosen = against, place
        if not against:
            break
    return chosen


def _exact_share(instance: Instance, best: Member, seconds: float, stop: Stop) -> Member | None:
    """The even share solved exactly on the devices that the best plan uses."""
    devices = best.packing.used()
    unrated = [need for need in instance.needs if not need.rated]
    if not unrated or not devices or variable_count(instance, devices) > MAX_VARIABLES:
        return None
    found = solve_exact(
        instance,
        Goal.SHARE,
        devices,
        best.packing,
        deterministic_seconds=SHARE_SHARE * seconds,
        cost_limit=best.packing.cost_units(),
        stop=stop,
    )
    return None if found.packing is None else member(best.name, found.packing)


def goodput_key(one: Member) -> tuple[int, float]:
    """What is better of two answers for the most goodput: larger."""
    return (-one.packing.short_replicas(), one.packing.goodput())


def nearest_goodput(
    instance: Instance,
    members: list[Member],
    guide: Guide,
    *,
    may: May = anything,
    stop: Stop = never,
) -> Member:
    """As `nearest_cost`, with goodput as the value and all devices to fill."""
    staying = staying_items(instance)
    short = min(m.packing.short_replicas() for m in members)
    close = [m for m in members if m.packing.short_replicas() == short]
    close = _worth_a_look(instance, close, cost=False) if staying else [max(close, key=goodput_key)]
    mixed = len({need.rated for need in instance.needs}) > 1
    ranks = []
    for one in close:
        packing = one.packing.copy()
        if mixed:
            restore(packing, staying, may_open=True)
            fill(packing, guide, range(len(packing.loads)), stop)
        full = member(one.name, packing)
        done = applied(instance, full.packing)
        goodput = full.packing.goodput()
        worth = -with_price(instance, Objective.MAX_GOODPUT, goodput, done)
        ranks.append((worth, done.load_bytes if staying else 0, -goodput, full))
    best = min(rank[0] for rank in ranks)
    ranks.sort(key=lambda r: (best if r[0] <= best + EQUAL * abs(best) else r[0], *r[1:3]))
    return ranks[first_that_may([rank[3].packing for rank in ranks], may)][3]
