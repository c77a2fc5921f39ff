"""Adds what a plan lacks without compiled code."""

from collections.abc import Iterable
from typing import Final

from partitiond.planner.model.types import Need
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.packing import missing
from partitiond.planner.stop import Stop, never

PASSES: Final = 3
"""A replica that raises its device's level may leave another model short; passes are repeated so
that this model is served again. Chosen, not measured."""


def complete(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add what models lack until nothing is missing, or what is missing fits nowhere.

    Models whose rules go beyond one device come first; replicas added later keep those rules.
    """
    ties, needs = adding.instance.ties, [*order]
    needs.sort(key=lambda n: (n.model not in ties.beyond_device, n.model not in ties.near))
    for _ in range(PASSES):
        changed, packing = False, adding.packing
        for need in [n for n in needs if missing(packing, n) is not None]:
            while missing(packing, need) is not None and not stop() and adding.add_one(need):
                changed = True
        packing.settle()  # a device may have been opened at a higher level than it needs
        if not changed:
            return


def most_goodput(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add the least numbers of replicas, then what adds most weighted requests/s per worth."""
    packing, needs = adding.packing, [*order]
    for need in needs:
        while packing.counts[need.model] < need.min_replicas and not stop():
            if not adding.add_one(need):
                break
    rated = any(need.rated for need in needs)
    open_needs = {need.model: need for need in needs if need.rated == rated}
    merits = {model: adding.merit(need) for model, need in open_needs.items()}
    while merits and not stop():
        model = max(merits, key=lambda m: (merits[m], -m))
        need = open_needs[model]
        if merits[model] <= 0 or not adding.add_one(need):
            del merits[model]
        else:
            merits[model] = adding.merit(need)
    tied = adding.instance.ties.beyond_device
    complete(adding, [need for need in needs if need.model in tied], stop)


def in_order(adding: Adding) -> list[Need]:
    """Sort models by the worth of their cheapest replica and of all they need, largest first."""
    return sorted(adding.instance.needs, key=lambda need: (-adding.size(need), need.model))
