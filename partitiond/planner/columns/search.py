"""Makes a plan for the most goodput by columns, with a bound: a linear program, and a dive.

The compiled search goes on from the plan (`planner.search.searching`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.columns import pricing
from partitiond.planner.columns.bound import bound_at
from partitiond.planner.columns.dive import dive
from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, pricing_work
from partitiond.planner.columns.master import Master, RowPrices
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.members import Member, member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items
from partitiond.planner.progress.watch import SolveMonitor

NAME: Final = "columns"
CONVERGE_SHARE: Final = 0.45
DIVE_SHARE: Final = 0.75
PROVE_SHARE: Final = 0.25
WHOLE_SHARE: Final = 0.6
"""Shares of the time left: for the first linear program, until no more columns are sought, for the
bound, and for the integer program after them. Chosen."""
MOST_WHOLE: Final = 1_500
MOST_SECONDS: Final = 5.0
"""Columns of an integer program, and its seconds, in which nothing stops it. Chosen."""
AS_GOOD: Final = 0.985
"""If the integer program finds less than this part of the dive's goodput, to have all least numbers
or by lack of time, the search does better from the dive's plan. Chosen."""
MOST_WORK: Final = 4_000_000
"""Steps of one pricing, which nothing stops midway: a second or two of a core. 100 models on a host
of 192 cores take 3.7 million; a device that holds more is planned by the other search."""
UNCOMPILED_MOST: Final = 600
UNCOMPILED_MODELS: Final = 8
"""Entries of `Sites` and models up to which the pricing is quick enough as it is: the first linear
program takes 3 s of CPU for 6 models on 4 GPUs (621 entries), and 13 s for 10 models (993)."""
COMPILED: Final = not str(pricing.__file__).endswith(".py")


def expresses(instance: Instance) -> bool:
    """Whether columns say all that a question for the most goodput asks, and are quick enough.

    What runs, priorities and models that have to be near others are left to the other search.
    """
    if instance.ties.near or staying_items(instance):
        return False
    if len({need.priority for need in instance.needs if need.rated}) != 1:
        return False
    sites = build_sites(instance)
    if pricing_work(sites) > MOST_WORK:
        return False
    if COMPILED and not instance.request.deterministic:
        return True
    return len(sites.entry_item) <= UNCOMPILED_MOST and len(sites.need_rate) <= UNCOMPILED_MODELS


def plan_by_columns(watch: SolveMonitor) -> tuple[Member, list[float]]:
    """Return a plan, and the bounds that were proven on the way.

    Args:
        watch: the problem, the clock and the progress callback.
    """
    fleet, bounds = ColumnProblem(build_sites(watch.instance)), list[float]()

    def enough() -> bool:
        return watch.done or watch.left() <= 0

    def prove(*prices: RowPrices) -> None:
        stop = watch.within(PROVE_SHARE)
        for full in (False, True) if fleet.least.any() else (False,):
            for each in prices:
                least = each.least if full else np.zeros_like(each.least)
                bound = bound_at(fleet, dataclasses.replace(each, least=least), stop)
                if bound is not None:
                    watch.proved(bound, full=full)
                    bounds.append(bound)

    late, hurry = watch.within(CONVERGE_SHARE), watch.within(DIVE_SHARE)
    columns = dive(fleet, fleet.all(), priced=prove, late=late, hurry=hurry, stop=enough)
    made = member(NAME, packed(fleet, columns))
    if not (enough() or watch.fixed) and len(fleet.known) <= MOST_WHOLE:
        chosen = Master(fleet, fleet.all(), whole=True).choose(
            columns, min(MOST_SECONDS, WHOLE_SHARE * watch.left())
        )
        whole = member(NAME, packed(fleet, chosen))
        if whole.packing.goodput() >= AS_GOOD * made.packing.goodput():
            made = whole
    watch.take([made])
    return made, bounds


def packed(fleet: ColumnProblem, plan: Sequence[DeviceColumn]) -> Packing:
    """Return a plan with its columns on devices.

    Pools of equal hosts are merged in columns, so a host may have no room for a replica of one; and
    of a part of a column in the program a dive makes a whole one, which may hold more of a model
    than its largest number. Such replicas are left out.
    """
    sites = fleet.sites
    most = {need.model: need.max_replicas for need in sites.instance.needs}
    packing = Packing(sites.instance)
    of_group = fleet.classes.of_group
    free = by_key((int(of_group[load.group]), d) for d, load in enumerate(packing.loads))
    # Columns that draw much from hosts first: later no host may have room for them.
    for column in sorted(plan, key=lambda c: -int(sites.entry_pool[c.entries, 1].sum())):
        items = sites.entry_item[column.entries].tolist()
        here = free[column.cls]
        device = next((d for d in here if not _lacking(packing, d, items)), None)
        if device is None:
            device = min(here, key=lambda d: _lacking(packing, d, items))
        free[column.cls].remove(device)
        crowd = int(sites.entry_kappa[column.entries].max())
        option = int(sites.option_of[column.site, column.level, crowd])
        for item in items:
            model = sites.instance.items[item].model
            if packing.counts[model] < most[model] and packing.fits(device, item, option):
                packing.add(device, item, option)
    return packing


def _lacking(packing: Packing, device: int, items: Sequence[int]) -> float:
    """Return what a device's host lacks for these items, in parts of the host's limits."""
    short = 0.0
    for p in packing.group(device).pools:
        pool = packing.instance.pools[p]
        drawn = sum(packing.instance.pool_use(pool, item) for item in items)
        short += max(0, packing.pool_used[p] + drawn - pool.capacity) / max(1, pool.capacity)
    return short
