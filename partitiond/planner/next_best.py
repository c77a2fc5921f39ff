"""The next best plan where nothing runs: of those found, one on other kinds of device.

Where something runs, the price of a move decides between plans (`core.plan_choices`). Where nothing
does, what decides is what devices cost: so of the plans that the search met the cheapest one on
other kinds is told, with the price at which it would win, or the objective under which it does.
"""

import collections
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Final

from partitiond.core.costs import no_prices
from partitiond.core.plan import Objective
from partitiond.planner.complete import from_nothing
from partitiond.planner.found import OnKinds
from partitiond.planner.members import EPSILON, Member
from partitiond.planner.packing import Packing
from partitiond.planner.prices import linear_prices
from partitiond.planner.sites import build_sites
from partitiond.planner.types import Instance

FEW: Final = 2_000
"""Models times devices up to which greedy plans are made, in a part of a second each: often one of
them meets the bound, as with twelve models on sixteen GPUs in half a second."""


def taken(instance: Instance, packing: Packing) -> OnKinds:
    """What a packing takes."""
    used = [instance.request.devices[index] for index in packing.used()]
    price = math.fsum(device.price_per_hour for device in used)
    return OnKinds(collections.Counter(device.hardware for device in used), price)


def without_each_kind(instance: Instance, chosen: Packing) -> list[Member]:
    """A greedy plan without each kind of device that the chosen one uses, where that is quick.

    The search mostly keeps to the kinds that win. Nothing is tried where only one kind is there,
    or something runs.
    """
    request = instance.request
    kinds = {device.hardware for device in request.devices}
    if len(kinds) < 2 or request.running or len(instance.needs) * len(request.devices) > FEW:
        return []
    prices, found = linear_prices(build_sites(instance), as_cost=True), list[Member]()
    for kind in sorted(taken(instance, chosen).kinds):
        others = [i for i, d in enumerate(request.devices) if d.hardware != kind]
        plans = from_nothing(instance, prices, by_cost=True, devices=others)
        found += [Member(f"without {kind}", one.packing) for one in itertools.islice(plans, 1)]
    return found


def on_other_kinds(
    instance: Instance, members: Iterable[Member], chosen: Packing
) -> OnKinds | None:
    """The cheapest plan found on other kinds of device, or on other numbers of them.

    Under `min-price` it is the next best; under `min-devices` one that takes more devices and costs
    less. None where no such plan was found, and under others.
    """
    objective, mine = instance.request.objective, taken(instance, chosen)
    if objective not in (Objective.MIN_PRICE, Objective.MIN_DEVICES):
        return None
    if no_prices(instance.request.devices):
        return None
    found = [taken(instance, one.packing) for one in members]
    found = [one for one in found if one.kinds != mine.kinds]
    if objective is Objective.MIN_DEVICES:
        least = mine.price_per_hour * (1 - EPSILON)
        found = [o for o in found if o.price_per_hour < least and o.devices > mine.devices]
    return min(found, key=lambda o: (o.price_per_hour, o.devices), default=None)


def price_to_win(
    mine: Mapping[str, int], other: Mapping[str, int], prices: Mapping[str, float], lead: float
) -> tuple[str, float] | None:
    """The kind of device, and its price, at which the other plan costs as much as this one.

    Of all kinds the one whose price has to change by the smallest share. None where no price above
    zero does it.

    Args:
        mine, other: devices by kind of both plans.
        prices: of one device of each kind.
        lead: by how much the other one costs more.
    """
    found = []
    for kind, now in prices.items():
        more = other.get(kind, 0) - mine.get(kind, 0)
        if more and now > 0 and now - lead / more > 0:
            found.append((abs(lead / more) / now, kind, now - lead / more))
    if not found:
        return None
    _, kind, price = min(found)
    return kind, price


def next_best_told(instance: Instance, chosen: Packing, other: OnKinds | None) -> str | None:
    """The next best plan, and what would have to change for it to win, in a sentence."""
    if other is None:
        return None
    mine = taken(instance, chosen)
    head = (
        f"Next best of the plans found: {_told(other)} for {other.price_per_hour:.4g} per hour "
        f"instead of {_told(mine)} for {mine.price_per_hour:.4g}; it wins "
    )
    if instance.request.objective is Objective.MIN_DEVICES:
        return f"{head}under --objective min-price."
    each: dict[str, set[float]] = collections.defaultdict(set)
    for device in instance.request.devices:
        each[device.hardware].add(device.price_per_hour)
    prices = {kind: min(found) for kind, found in each.items() if len(found) == 1}
    lead = other.price_per_hour - mine.price_per_hour
    at = price_to_win(mine.kinds, other.kinds, prices, lead)
    if at is None:
        return None
    kind, price = at
    side = "below" if other.kinds.get(kind, 0) > mine.kinds.get(kind, 0) else "above"
    return f"{head}where one {kind} costs {side} {price:.3g} per hour (now {prices[kind]:.3g})."


def _told(plan: OnKinds) -> str:
    return " and ".join(f"{count}x {kind}" for kind, count in sorted(plan.kinds.items()))
