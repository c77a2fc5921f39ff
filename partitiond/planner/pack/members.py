"""Holds the portfolio's answers with the method that found each, and tidies each packing."""

import collections
import dataclasses
from typing import Final

from partitiond.planner.pack.packing import Packing, may_leave
from partitiond.planner.pack.running import staying_items

EPSILON: Final = 1e-6
KEPT: Final = "kept what runs"
EXACT: Final = "exact (CP-SAT)"


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One answer, and the name of the method that found it."""

    name: str
    packing: Packing


def rank(packing: Packing, by_cost: bool) -> tuple[float, ...]:
    """Return a sort key of a packing, by cost or for goodput; less is better."""
    lacking = len(packing.lacking())
    if by_cost:
        return (lacking, packing.cost_units())
    return (packing.short_replicas(), -packing.goodput(), lacking)


def member(name: str, packing: Packing) -> Member:
    """Return a packing as a member: without surplus, every device at the lowest level it allows."""
    replicas = -1
    while replicas != sum(packing.counts.values()):
        replicas = sum(packing.counts.values())
        packing.settle()
        drop_surplus(packing, rated_only=True)
    packing.settle()
    return Member(name, packing)


def drop_surplus(packing: Packing, *, rated_only: bool = False) -> None:
    """Remove replicas that no demand and no least number needs, the largest first.

    No running replica is removed in favour of one that does not run.
    """
    instance = packing.instance
    needs = {need.model: need for need in instance.needs}
    runs = collections.Counter((index, item) for index, item, _ in staying_items(instance))
    placed, fresh = list[tuple[bool, int, int, int]](), collections.Counter[int]()
    for index, load in enumerate(packing.loads):
        for item in load.items:
            stays = runs[index, item] > 0
            runs[index, item] -= stays
            placed.append((stays, -instance.items[item].memory_bytes, index, item))
            if not stays:
                fresh[instance.items[item].model] += instance.rate(item, packing.option(index))
    for stays, _, index, item in sorted(placed):
        need = needs[instance.items[item].model]
        rate = instance.rate(item, packing.option(index))
        left = packing.rates[need.model] - rate - (fresh[need.model] if stays else 0)
        if rated_only and not need.rated:
            continue
        few = packing.counts[need.model] - 1 < need.min_replicas
        if not few and left >= need.rate and may_leave(packing, index, item):
            packing.remove(index, item)
            fresh[need.model] -= 0 if stays else rate
