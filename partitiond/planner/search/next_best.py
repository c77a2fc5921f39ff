"""Finds the next best plan if nothing runs: a plan on other kinds of device, of those found.

If something runs, the price of a move decides between plans (`core.plan.choices`). If nothing runs,
the cost of devices decides. The next best plan is then the one that would win first if a price
changed (`core.plan.kinds`), or the plan that wins under another objective.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.plan.costs import no_prices
from partitiond.core.plan.kinds import OnKinds, between_told, first_to_win, kinds_told
from partitiond.core.plan.record import Objective
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.members import EPSILON
from partitiond.planner.pack.packing import Packing

FEW: Final = 2_000
"""Models times devices up to which greedy plans are made, each in a fraction of a second. Often one
meets the bound, as with twelve models on sixteen GPUs in half a second (docs/decisions/0014)."""


def taken(packing: Packing) -> OnKinds:
    """Return the number of devices of each kind that a packing uses, and their price."""
    used = [packing.instance.request.devices[index] for index in packing.used()]
    price = math.fsum(device.price_per_hour for device in used)
    return OnKinds(collections.Counter(device.hardware for device in used), price)


def is_asked(request: PlanRequest) -> bool:
    """Return whether a next best plan is to be reported, so that plans are made for it."""
    kinds = {device.hardware for device in request.devices}
    few = len(request.models) * len(request.devices) <= FEW
    told = request.objective in (Objective.MIN_PRICE, Objective.MIN_DEVICES)
    return (
        told and few and len(kinds) > 1 and not request.running and not no_prices(request.devices)
    )


def without(instance: Instance, kind: str, seconds: float) -> Instance | None:
    """Return the problem without a kind of device; None if a model then fits no device."""
    request = instance.request
    devices = tuple(device for device in request.devices if device.hardware != kind)
    asked = dataclasses.replace(request, devices=devices, time_limit_seconds=seconds)
    made = build_instance(asked)
    return made if made.hopeless == instance.hopeless else None


def on_other_kinds(found: Iterable[OnKinds], chosen: Packing) -> OnKinds | None:
    """Return the plan on other kinds of device, or other numbers of them, that would win first.

    Under `min-price` it wins at other prices. Under `min-devices` it is the cheapest plan, if that
    costs less than the chosen one. None if no such plan was found.
    """
    request, mine, plans = chosen.instance.request, taken(chosen), [*found]
    if not is_asked(request):
        return None
    least = min([mine, *plans], key=lambda o: (o.price_per_hour, o.devices))
    cheaper = least.price_per_hour < mine.price_per_hour * (1 - EPSILON)
    if request.objective is Objective.MIN_DEVICES:
        return least if cheaper else None
    if cheaper:  # found while looking for other plans, too late to become the plan
        return least
    each: dict[str, set[float]] = collections.defaultdict(set)
    for device in request.devices:
        each[device.hardware].add(device.price_per_hour)
    one_price = {kind: min(several) for kind, several in each.items() if len(several) == 1}
    return first_to_win(mine, plans, one_price)


def next_best_told(chosen: Packing, other: OnKinds | None) -> str | None:
    """Return a sentence with the next best plan, and what would have to change for it to win."""
    if other is None:
        return None
    mine = taken(chosen)
    head = (
        f"Next best of the plans found: {kinds_told(other)} for {other.price_per_hour:.4g} per "
        f"hour instead of {kinds_told(mine)} for {mine.price_per_hour:.4g}; it wins "
    )
    if other.wins is None and chosen.instance.request.objective is Objective.MIN_PRICE:
        return f"{head}with a longer --time-limit, as it was found last."
    if other.wins is None:
        return f"{head}under --objective min-price."
    kind, *prices = other.wins
    now = next(d.price_per_hour for d in chosen.instance.request.devices if d.hardware == kind)
    return f"{head}where one {kind} costs {between_told(*prices)} per hour (now {now:.4g})."
