"""Makes a plan for the most goodput by columns, with a bound: a linear program, and a dive.

The compiled search goes on from the plan (`planner.search.searching`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.columns import pricing
from partitiond.planner.columns.best_choice import BestChoice
from partitiond.planner.columns.bound import bound_at
from partitiond.planner.columns.dive import dive
from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, pricing_work
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.members import Member, member, rank
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.stop import Stop

NAME: Final = "columns"
Complete = Callable[[Packing, Stop], Packing]
COMPLETE_SHARE: Final = 0.1
CONVERGE_SHARE: Final = 0.45
DIVE_SHARE: Final = 0.75
PROVE_SHARE: Final = 0.25
"""Shares of the time left: to complete a plan, for the first linear program, until no more columns
are sought, and for the bound. Chosen."""
FEW: Final = 6
WIDER: Final = 1.25
MARGINS: Final = 22
CHOOSE_SHARE: Final = 0.5
MOST_GAP: Final = 0.05
LONGER: Final = 3.0
"""Devices up to which the best plan may be proven; by how much more such plans may lose each time,
how often until they may lose all up to the best known one; the share of the time left, the gap
beyond which nothing is proven in it, and how much longer the next time takes at least. Chosen."""
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


def plan_by_columns(
    watch: SolveMonitor, complete: Complete, known: Member | None = None
) -> tuple[Member, bool]:
    """Make a plan, and prove a bound on the way.

    Args:
        watch: the problem, the clock and the progress callback.
        complete: returns a packing with what it lacks, as far as there is room, until a stop.
        known: a plan whose devices are the first columns.

    Returns:
        The plan, and whether the columns gave a better bound than was known.
    """
    fleet, better = ColumnProblem(build_sites(watch.instance)), False
    of_full, tight = math.inf, list[RowPrices]()
    few = COMPILED and len(watch.instance.group_of) <= FEW and not watch.fixed

    def enough() -> bool:
        return watch.done or watch.left() <= 0

    def prove(*prices: RowPrices) -> None:
        nonlocal better, of_full
        stop = watch.within(PROVE_SHARE)
        of_any = [dataclasses.replace(each, least=np.zeros_like(each.least)) for each in prices]
        for each in [*of_any, *prices] if fleet.least.any() else of_any:
            least = math.inf if few or watch.bound is None else watch.bound
            bound = bound_at(fleet, each, stop, min(of_full, least))
            if bound is None:
                continue
            if not each.least.any():
                better |= watch.proved(bound)
            if bound < of_full:
                of_full, tight[:] = bound, [each]

    late, hurry = watch.within(CONVERGE_SHARE), watch.within(DIVE_SHARE)
    begin = [] if known is None else fleet.columns_of(known.packing)
    columns = dive(fleet, fleet.all(), begin, priced=prove, late=late, hurry=hurry, stop=enough)
    made = member(NAME, complete(packed(fleet, columns), watch.within(COMPLETE_SHARE)))
    watch.take([made])
    if watch.value is not None and of_full < math.inf:
        # Least numbers come before goodput, and a plan has them all.
        better |= watch.proved(of_full)
    if few and tight and watch.value and not enough():
        chosen, proven = _best_choice(watch, watch.value, fleet, tight[0])
        better |= proven
        if chosen:
            # Hosts may have no room for it, so it may be worse.
            other = member(NAME, complete(packed(fleet, chosen), watch.within(COMPLETE_SHARE)))
            watch.take([other])
            made = min(made, other, key=lambda one: rank(one.packing, by_cost=False))
    return made, better


def _best_choice(
    watch: SolveMonitor, known: float, fleet: ColumnProblem, duals: RowPrices
) -> tuple[list[DeviceColumn], bool]:
    """Return the best plan if it is better than the known value and found in time, and whether a
    better bound is proven."""
    until = time.monotonic() + CHOOSE_SHARE * watch.left()
    choice = BestChoice(fleet, duals, watch.until(until))
    all_of_it, better = choice.bound - known, False
    for times in reversed(range(MARGINS if all_of_it <= MOST_GAP * known else 0)):
        margin = all_of_it / WIDER**times
        began = time.monotonic()
        found = choice.within(margin)
        if found is None:
            break
        better |= watch.proved(choice.bound_beyond(found[0]))
        if found[0] < margin:
            return found[1], better
        now = time.monotonic()
        if now + LONGER * (now - began) > until:
            break
    return [], better


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
