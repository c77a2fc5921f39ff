"""Improves a packing by solving small parts of it exactly: a few devices into one fewer."""

import dataclasses
import random
from typing import Final

from partitiond.core.plan import Status
from partitiond.planner.exact import Goal, solve_exact
from partitiond.planner.greedy import Guide, drop_surplus
from partitiond.planner.instance import Instance, Need
from partitiond.planner.packing import Packing

DEVICES_AT_ONCE: Final = (3, 4)
ITEMS_PER_MODEL: Final = 7
"""The best few sizes of each model at the bound's prices: enough choice, small models."""
SECONDS_EACH: Final = 0.4
"""Deterministic seconds of one part; longer ones were rarely worth it."""


def improve_cost(
    instance: Instance, guide: Guide, packing: Packing, least: float, seconds: float
) -> Packing:
    """Empty one device after the other by repacking it together with a few others.

    Args:
        instance: the question.
        guide: the bound's prices.
        packing: covers everything.
        least: the bound; nothing is tried at or below it.
        seconds: deterministic seconds for all parts together.
    """
    rng = random.Random(f"{instance.request.seed}-parts")  # noqa: S311
    tries = max(1, int(seconds / SECONDS_EACH))
    for number in range(tries):
        used = packing.used()
        if packing.cost() <= least + 1e-6 or len(used) < 2:
            break
        count = min(len(used), DEVICES_AT_ONCE[number % len(DEVICES_AT_ONCE)])
        chosen = rng.sample(used, count)
        better = _repack(instance, guide, packing, chosen)
        if better is not None:
            packing = better
    return packing


def _repack(
    instance: Instance, guide: Guide, packing: Packing, chosen: list[int]
) -> Packing | None:
    """Serve what the chosen devices serve without the dearest, then least filled, of them."""
    rest = packing.copy()
    for index in chosen:
        for item in [*rest.loads[index].items]:
            rest.remove(index, item)
    part = _part(instance, guide, rest)
    order = sorted(
        chosen, key=lambda i: (packing.group(i).price, -packing.loads[i].memory, i)
    )
    found = solve_exact(part, Goal.COST, order[:-1], None, deterministic_seconds=SECONDS_EACH)
    if found.status not in (Status.OPTIMAL, Status.FEASIBLE) or found.packing is None:
        return None
    for index in order[:-1]:
        load = found.packing.loads[index]
        for item in load.items:
            assert load.option is not None
            rest.add(index, item, load.option)
    drop_surplus(rest, rated_only=True)
    return rest


def _part(instance: Instance, guide: Guide, rest: Packing) -> Instance:
    """The instance that is left when `rest` stays: smaller needs, few sizes, smaller pools."""
    needs, items = [], set[int]()
    for need in instance.needs:
        left = _left(need, rest)
        if left.rate > 0 or left.min_replicas > 0:
            needs.append(left)
            items |= _best_items(guide, left)
    return dataclasses.replace(
        instance,
        needs=tuple(needs),
        groups=tuple(
            dataclasses.replace(
                group, fits=tuple(tuple(i for i in fit if i in items) for fit in group.fits)
            )
            for group in instance.groups
        ),
        pools=tuple(
            dataclasses.replace(pool, capacity=pool.capacity - rest.pool_used[pool.index])
            for pool in instance.pools
        ),
    )


def _left(need: Need, rest: Packing) -> Need:
    count = rest.counts[need.model]
    return dataclasses.replace(
        need,
        rate=max(0, need.rate - rest.rates[need.model]),
        min_replicas=max(0, need.min_replicas - count),
        max_replicas=need.max_replicas - count,
    )


def _best_items(guide: Guide, need: Need) -> set[int]:
    found: dict[int, None] = {}
    for _, entry in guide.by_merit(need, need.rate):
        found.setdefault(entry.item)
        if len(found) == ITEMS_PER_MODEL:
            break
    return set(found)
