"""Packs by first-fit decreasing, the stated baseline, unimproved."""

from typing import Final

from partitiond.core.plan.record import Objective
from partitiond.planner.model.sites import NO_LIMIT, capacity_of, use_of
from partitiond.planner.model.types import Group, Instance, Option
from partitiond.planner.pack.packing import Packing

FIRST_FIT: Final = "first-fit decreasing"
MOST: Final = 100_000
"""Limit on replicas of a model: tiny rates may ask for more than any fleet holds."""


def first_fit(instance: Instance) -> Packing:
    """Pack by first-fit decreasing under the best fixed option.

    Each model takes the candidate that serves most per its largest share of a device, in as many
    replicas as that needs. Replicas are packed largest share first; for goodput, those that give
    most of it per share first. All devices are run the same way (one sharing mode, one level); the
    way that leaves the least unserved, then costs the least, is kept.
    """
    ways = {
        (option.mode, option.level) for g in instance.groups for option in g.options if option.mode
    }
    found = [_packed(instance, way) for way in sorted(ways, key=lambda w: (str(w[0]), w[1]))]
    found = found or [Packing(instance)]
    return min(found, key=lambda p: (len(p.lacking()), -p.goodput(), p.cost()))


def _packed(instance: Instance, way: tuple[object, float]) -> Packing:
    packing, queue = Packing(instance), list[tuple[float, int, int]]()
    by_value = instance.request.objective is Objective.MAX_GOODPUT
    chosen = _most_per_share(instance, way)
    for need in instance.needs:
        if need.model not in chosen:
            continue
        _, item, rate, share = chosen[need.model]
        count = max(need.min_replicas, -(-need.rate // rate))
        key = need.worth * rate / share if by_value else share
        queue.extend((-key, need.model, -item) for _ in range(min(count, need.max_replicas, MOST)))
    refused = set[int]()  # devices only fill up: an item that fitted nowhere never fits later
    for _, _, item in sorted(queue):
        if item not in refused and not _drop_in(packing, item, way):
            refused.add(item)
    return packing


def _most_per_share(
    instance: Instance, way: tuple[object, float]
) -> dict[int, tuple[float, int, int, float]]:
    """Return for each model the item that serves most per its largest share of a device.

    The result has the rate per share, the item's negated number, its rate, and that share.
    """
    found: dict[int, tuple[float, int, int, float]] = {}
    alike = {id(group.held): group for group in instance.groups}
    for group in alike.values():
        for option, fit in zip(group.options, group.fits, strict=True):
            for item in fit if _runs_as(option, way) else ():
                rate, model = instance.rate(item, option), instance.items[item].model
                if rate > 0:
                    share = _share(instance, group, option, item)
                    key = (rate / share, -item, rate, share)
                    found[model] = max(found.get(model, key), key)
    return found


def _share(instance: Instance, group: Group, option: Option, item: int) -> float:
    """Return the largest share an item takes of a device's resources, its load or its number."""
    it = instance.items[item]
    use, capacity = use_of(it, option), capacity_of(group, option)
    shares = [u / c for u, c in zip(use, capacity, strict=True) if 0 < c < NO_LIMIT]
    if option.mode is not None and 0 < option.busy_limit[1] < NO_LIMIT // 2:
        shares.append(it.busy / option.busy_limit[1])
    return max(*shares, 1 / max(1, option.max_items))


def _runs_as(option: Option, way: tuple[object, float]) -> bool:
    return option.mode is None or (option.mode, option.level) == way


def _drop_in(packing: Packing, item: int, way: tuple[object, float]) -> bool:
    """Add an item to the first device that holds it; return whether any does."""
    for index in range(len(packing.loads)):
        group = packing.group(index)
        for k, option in enumerate(group.options):
            fits = _runs_as(option, way) and item in group.fits[k]
            if fits and packing.fits(index, item, k):
                packing.add(index, item, k)
                return True
    return False
