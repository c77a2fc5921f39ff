"""Among plans as good: what is left over is shared out, and the one near what runs is taken."""

from typing import Final

from partitiond.planner.assign import bytes_to_load, replicas_kept
from partitiond.planner.exact import MAX_VARIABLES, Goal, solve_exact, variable_count
from partitiond.planner.greedy import Guide
from partitiond.planner.instance import Instance
from partitiond.planner.members import EPSILON, Member, member
from partitiond.planner.progress import Stop, never
from partitiond.planner.running import restore, staying_items
from partitiond.planner.share import fill, share_value

NEAR: Final = 0.01
"""Plans within this of the best primary value count as equally good."""
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


def nearest_cost(
    instance: Instance,
    members: list[Member],
    guide: Guide,
    seconds: float,
    best: float,
    *,
    stop: Stop = never,
) -> Member:
    """Fill what is left over, then the fewest bytes to load among plans as good.

    Args:
        instance: the question.
        members: plans that may be taken; all serve everything.
        guide: prices.
        seconds: for sharing out what is left over.
        best: the least cost of any plan found, of those that move too much as well.
        stop: says when enough was filled.
    """
    staying = staying_items(instance)
    least = min(m.packing.cost() for m in members)
    most = max(least, best * (1 + (NEAR if staying else 0)))
    close = [m for m in members if m.packing.cost() <= most]
    unrated = any(not need.rated for need in instance.needs)
    filled = []
    for one in close if staying or unrated else close[:1]:
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
    most = max(share_value(m.packing) for m in filled)
    close = [m for m in filled if share_value(m.packing) >= most * (1 - NEAR_SHARE) - EPSILON]
    return min(
        close,
        key=lambda m: (
            bytes_to_load(instance, m.packing) if staying else 0,
            m.packing.cost(),
            -share_value(m.packing),
        ),
    )


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
    instance: Instance, members: list[Member], guide: Guide, best: float, stop: Stop = never
) -> Member:
    """As `nearest_cost`, with goodput as the primary value and all devices to fill."""
    staying = staying_items(instance)
    most = max(members, key=goodput_key)
    short, value = most.packing.short_replicas(), min(most.packing.goodput(), best * (1 - NEAR))
    close = [
        m for m in members if m.packing.short_replicas() <= short and m.packing.goodput() >= value
    ]
    if not staying:
        close = [most]
    mixed = len({need.rated for need in instance.needs}) > 1
    filled = []
    for one in close:
        packing = one.packing.copy()
        if mixed:
            restore(packing, staying, may_open=True)
            fill(packing, guide, range(len(packing.loads)), stop)
        filled.append(member(one.name, packing))
    return min(
        filled,
        key=lambda m: (
            bytes_to_load(instance, m.packing) if staying else 0,
            -m.packing.goodput(),
        ),
    )
