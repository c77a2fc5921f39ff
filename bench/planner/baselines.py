"""Defines the planner's baseline, first-fit decreasing.

It knows interference: a replica is placed only where it costs no model its demand or its SLO.
"""

import math
from typing import Final

from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance, Need
from partitiond.planner.pack.adding import add_if_harmless
from partitiond.planner.pack.packing import Packing

SIZES: Final = 6
"""Number of sizes of a model that it tries: the cheapest ones for their rate."""


def first_fit(instance: Instance) -> float | None:
    """Devices or weighted requests/s of first-fit, largest demand first."""
    sizes = _sizes(instance)
    packing = Packing(instance)
    for need in sorted(instance.needs, key=lambda n: -sizes[n.model][0][0] * max(1, n.rate)):
        while _lacks(packing, need) and _place(packing, [i for _, i in sizes[need.model]]):
            pass
    return value_of(packing)


def _sizes(instance: Instance) -> dict[int, list[tuple[float, int]]]:
    """Price for a unit of rate, and item, of each model, the lowest price first."""
    sites = build_sites(instance)
    each = usual_prices(sites) / [max(1, int(rate)) for rate in sites.rates[:, 0]]
    found: dict[int, dict[int, float]] = {n.model: {} for n in instance.needs}
    for e, item in enumerate(sites.entry_item.tolist()):
        mine = found[instance.items[item].model]
        mine[item] = min(float(each[e]), mine.get(item, math.inf))
    return {
        model: sorted((price, item) for item, price in mine.items())[:SIZES]
        for model, mine in found.items()
    }


def _lacks(packing: Packing, need: Need) -> bool:
    short = packing.rates[need.model] < need.rate or packing.counts[need.model] < need.min_replicas
    return short and packing.counts[need.model] < need.max_replicas


def _place(packing: Packing, items: list[int]) -> bool:
    """Add one replica; return False if no device takes any of the sizes."""
    devices = range(len(packing.loads))
    return any(add_if_harmless(packing, d, item) for item in items for d in devices)


def value_of(packing: Packing) -> float | None:
    """Devices, or weighted requests/s; None if required demand is not served."""
    if packing.instance.request.objective is Objective.MAX_GOODPUT:
        return packing.goodput()
    return None if packing.lacking() else float(len(packing.used()))
