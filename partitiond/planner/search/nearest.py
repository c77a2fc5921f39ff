"""Chooses among plans: shares out spare capacity, then takes the best after the price of moves.

Of equally good plans it takes the one that loads the fewest weights.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.exact import MAX_VARIABLES, Goal, solve_exact, variable_count
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.solver_costs import charges_replicas, true_value
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.adding import fill, share_value
from partitiond.planner.pack.assign import applied
from partitiond.planner.pack.members import (
    EPSILON,
    KEPT,
    Member,
    drop_surplus,
    member,
)
from partitiond.planner.pack.moves import count_of_moves, price_of_a_move, with_moves
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import restore, staying_items
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.search.priorities import goodput_key, lexicographic, values_of
from partitiond.planner.stop import Stop

OUTAGE: Final = 1
"""Objection to a plan: a model has no replica for a while, which is not allowed."""
LEAVES: Final = 2
"""The strongest objection: a replica leaves that has to stay."""
May = Callable[[Packing], int]
"""Returns the objection to a packing as the answer: 0 for none, `OUTAGE`, or `LEAVES`."""
EQUAL: Final = 1e-6
NEAR_SHARE: Final = 0.05
"""Relative tolerance for shares of models without a rate, worth less than a restart. Chosen."""
SHARE_SHARE: Final = 0.1
"""Deterministic seconds for the shares per second of the time limit. Chosen, not measured."""
EXACT_SHARE: Final = 0.4
"""Share of `SolveMonitor.rest` for building the shares' model, as much for solving it. Chosen."""
VARIABLES: Final = 5_000
"""Number of variables that are made in a second, on a core that is shared."""


def nearest_cost(watch: SolveMonitor, members: list[Member], *, may: May) -> Member:
    """Fill spare capacity; then choose the least cost with moves, then the fewest bytes to load.

    Args:
        watch: the problem and the clock; a fifth after the limit nothing more is shared out.
        members: plans that all serve everything.
        may: the objection to a packing: the best packing among those with the least is chosen.
    """
    instance, objective = watch.instance, watch.instance.request.objective
    price = price_of_a_move(instance.request, objective)
    staying = bool(staying_items(instance))
    looks = _worth_a_look(instance, members, cost=True)
    filled = [_filled(instance, one, watch.over, may_open=False) for one in looks]
    shared = _exact_share(watch, max(filled, key=lambda m: share_value(m.packing)))
    if shared is not None:
        filled.append(shared)
    ranks = []
    for one in filled:
        done, own = applied(instance, one.packing), one.packing.cost()
        # Ties by the devices' prices are part of the cost, but no reason to load weights.
        value = true_value(instance.request, own) if staying else own
        cost = with_moves(objective, value, count_of_moves(instance, done), price)
        ranks.append((cost, share_value(one.packing), done.load_bytes if staying else 0, own, one))
    least = min(rank[0] for rank in ranks)
    fair = max(share for cost, share, *_ in ranks if cost <= least + EQUAL)
    enough = fair * (1 - NEAR_SHARE) - EPSILON

    def key(rank: tuple[float, float, int, float, Member]) -> tuple[float, ...]:
        cost, share, load_bytes, own, _ = rank
        near = 0.0 if cost <= least + EQUAL else cost
        return (near, share < enough, load_bytes, own, -share)

    ranked = [rank[-1] for rank in sorted(ranks, key=key)]
    return ranked[least_against([one.packing for one in ranked], may)]


def _filled(instance: Instance, one: Member, stop: Stop, *, may_open: bool) -> Member:
    """Return a plan with models without a rate where they ran, and filling the spare capacity.

    If replicas are part of the cost, each one more makes the plan worse, so none is added. For
    goodput no demand is left that one more replica would serve.
    """
    packing = one.packing.copy()
    if may_open and not stop():
        sites, placed = build_sites(instance), -1
        improver = Improver(sites, usual_prices(sites), by_cost=False, seed=instance.request.seed)
        while placed != sum(packing.counts.values()):  # what became surplus left a place
            packing = improver.completed(packing, stop)
            placed = sum(packing.counts.values())
            member(one.name, packing)
    if not may_open and charges_replicas(instance.request):
        drop_surplus(packing)
    elif any(not need.rated for need in instance.needs):
        restore(packing, may_open=may_open)
        fill(packing, range(len(packing.loads)) if may_open else packing.used(), stop)
    return member(one.name, packing)


def _worth_a_look(instance: Instance, members: Sequence[Member], *, cost: bool) -> list[Member]:
    """Return the plans with the best value; if something runs all, those made from it first."""
    best = sorted(members, key=lambda m: m.packing.cost() if cost else -m.packing.goodput())
    if not staying_items(instance):
        # The shares of models without a rate count only among equally good plans.
        most, shares = best[0].packing.cost() + EQUAL, any(not n.rated for n in instance.needs)
        return [m for m in best if m.packing.cost() <= most] if shares else best[:1]
    return sorted(best, key=lambda m: not m.name.startswith(KEPT))


def least_against(ranked: Iterable[Packing], may: May) -> int:
    """Return the position of the first packing with the least objection.

    To stop a running model for good that the first packing serves is no less than an outage.
    """
    told, running = list[int](), set[str]()
    for packing in ranked:
        request, counts = packing.instance.request, packing.counts
        here = {need.name for need in packing.instance.needs if counts[need.model]}
        if not told and not request.allow_outage:
            running = here & {p.model for p in request.running}
        told.append(max(may(packing), OUTAGE if running - here else 0))
        if not told[-1]:
            break
    return told.index(min(told))


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


def nearest_goodput(instance: Instance, members: list[Member], *, may: May, stop: Stop) -> Member:
    """Choose as `nearest_cost` does, with goodput as the value and all devices to fill.

    A plan may miss more of the least numbers than another one only if what has to stay stays.
    """
    by_short = by_key((m.packing.short_replicas(), m) for m in members)
    found = []
    for _, close in sorted(by_short.items()):
        found.append(_nearest_of(instance, close, may=may, stop=stop))
        if may(found[-1].packing) < LEAVES:
            return found[-1]
    # What spare room is filled with may make leave what has to stay.
    return next((m for m in members if may(m.packing) < LEAVES), found[0])


def _nearest_of(instance: Instance, close: list[Member], *, may: May, stop: Stop) -> Member:
    """Choose among plans that miss equally many of the least numbers."""
    staying, objective = staying_items(instance), Objective.MAX_GOODPUT
    close = _worth_a_look(instance, close, cost=False) if staying else [max(close, key=goodput_key)]
    if any(need.rated for need in instance.needs):  # else all running replicas count as goodput
        close = [_filled(instance, one, stop, may_open=True) for one in close]
    ranks, price = [], price_of_a_move(instance.request, objective)
    for one in close:
        done = applied(instance, one.packing)
        moves = count_of_moves(instance, done)
        worth = [-with_moves(objective, v, moves, price) for v in values_of(one.packing)]
        load = done.load_bytes if staying else 0
        # What is filled may have more of the least numbers than it had.
        short = one.packing.short_replicas()
        ranks.append((short, lexicographic(worth), load, -one.packing.goodput(), one))
    ranks.sort(key=lambda rank: rank[:4])
    return ranks[least_against([rank[-1].packing for rank in ranks], may)][-1]
