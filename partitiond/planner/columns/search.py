"""Finds a plan for the most goodput by columns: a dive, then dives for a few devices at a time."""

import random
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.columns import pricing
from partitiond.planner.columns.bound import bound_at
from partitiond.planner.columns.dive import Dive, dive
from partitiond.planner.columns.fleet import ColumnProblem, DeviceColumn, beside, pricing_work
from partitiond.planner.columns.master import Effort, RowPrices
from partitiond.planner.model.sites import Floats, build_sites
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import in_order, most_goodput
from partitiond.planner.pack.members import Member, member
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items
from partitiond.planner.progress.watch import SolveMonitor

NAME: Final = "columns"
FIRST: Final = Dive(Effort(30, beside=8), Effort(3))
"""The dive for the whole fleet."""
AGAIN: Final = Dive(Effort(5, 40, 2, nodes=3_000), Effort(1, 40, 2, nodes=3_000), step=2)
"""The dive for a few devices."""
FEWEST: Final = 2
MOST: Final = 8
"""Devices that are planned anew at once. With 10, half as many tries gained less."""
CONVERGE_SHARE: Final = 0.45
"""Share of the time for the first linear program. Chosen, not measured."""
TELL_SECONDS: Final = 1.0
"""Least time between two better plans that are made of columns. Chosen."""
TRIES_PER_SECOND: Final = 5
"""Devices planned anew per second of the time limit, if the clock may not count. Chosen."""
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


def search_columns(watch: SolveMonitor, worth: Floats) -> tuple[Member, bool]:
    """Search until the time is over, the caller stops it or the bound is met.

    Args:
        watch: the problem, the clock and the progress callback.
        worth: (E,) what one replica of each entry takes.

    Returns:
        The best plan, and whether the columns gave a better bound than was known.
    """
    found = _Columns(watch, worth)
    found.begin()
    found.improve()
    return found.best, found.bounded


class _Columns:
    """A search by columns.

    Attributes:
        best: the best plan made of columns and completed so far.
        bounded: whether a better bound than was known was proven.
    """

    best: Member

    def __init__(self, watch: SolveMonitor, worth: Floats) -> None:
        self.watch, self.instance, self.worth = watch, watch.instance, worth
        self.fleet = ColumnProblem(build_sites(self.instance))
        self.bounded = False
        self._rng = random.Random(self.instance.request.seed)  # noqa: S311
        self._plan = list[DeviceColumn]()

    def begin(self) -> None:
        """Make the first plan, and prove a bound."""
        late = self.watch.within(CONVERGE_SHARE)
        rest = self.fleet.all()
        self._plan = dive(
            self.fleet, rest, FIRST, priced=self._prove, hurry=late, stop=self._enough
        )
        self._keep(self._plan)

    def _prove(self, *prices: RowPrices) -> None:
        for each in prices:
            bound = bound_at(self.fleet, each, self._enough)
            if bound is not None and self.watch.proved(bound):
                self.bounded = True

    def _enough(self) -> bool:
        return self.watch.done or self.watch.left() <= 0

    def improve(self) -> None:
        """Plan a few devices anew, again and again."""
        limit = self.instance.request.time_limit_seconds
        most = round(TRIES_PER_SECOND * limit) if self.watch.fixed else 1 << 30
        value, kept, told = self._value(self._plan), self._plan, time.monotonic()
        for _ in range(most if len(self._plan) > 1 else 0):
            if self._enough():
                break
            trial = self._again(self._plan)
            new = self._value(trial)
            if new < self._value(self._plan):
                continue
            self._plan = trial
            if new > value and time.monotonic() - told > TELL_SECONDS and not self.watch.fixed:
                value, kept, told = new, trial, time.monotonic()
                self._keep(trial)
        if self._value(self._plan) > self._value(kept):
            self._keep(self._plan)

    def _again(self, plan: Sequence[DeviceColumn]) -> list[DeviceColumn]:
        """Return a plan in which some devices that share a class or models are planned anew."""
        most = max(FEWEST, min(MOST, len(plan) - 1))
        chosen = self._near(plan, self._rng.randint(FEWEST, most))
        fixed = [c for n, c in enumerate(plan) if n not in chosen]
        taken = [c for n, c in enumerate(plan) if n in chosen]
        rest = beside(fixed, self.fleet)
        # Only as many devices: idle ones are taken as well, if there are any.
        return fixed + dive(
            self.fleet, rest, AGAIN, known=taken, rng=self._rng,
            hurry=lambda: False, stop=self._enough,
        )  # fmt: skip

    def _near(self, plan: Sequence[DeviceColumn], size: int) -> set[int]:
        """Return positions of devices that share a class or models with a random one."""
        rng, model = self._rng, self.fleet.sites.entry_model
        first = plan[rng.randrange(len(plan))]
        mine = set(model[first.entries].tolist())
        score = [
            (
                rng.random()
                + 0.5 * (column.cls == first.cls)
                + 0.5 * (not mine.isdisjoint(model[column.entries].tolist())),
                n,
            )
            for n, column in enumerate(plan)
        ]
        return {n for _, n in sorted(score, reverse=True)[:size]}

    def _value(self, plan: Sequence[DeviceColumn]) -> tuple[int, float]:
        """Return what a plan is worth: least numbers first; more is better."""
        rest = beside(plan, self.fleet)
        missing = int(np.maximum(0, self.fleet.least - rest.count).sum())
        return -missing, float((self.fleet.worth * (1 - rest.open)).sum())

    def _keep(self, plan: Sequence[DeviceColumn]) -> None:
        """Complete a plan, and keep it if it is the best."""
        packing = packed(self.fleet, plan)
        stop = self.watch.finish()
        adding = Adding(packing, self.worth, stop=stop)
        most_goodput(adding, in_order(adding), stop)
        made = member(NAME, packing)
        if not hasattr(self, "best") or _rank(made) > _rank(self.best):
            self.best = made
            self.watch.take([made])


def _rank(one: Member) -> tuple[int, float]:
    return -one.packing.short_replicas(), one.packing.goodput()


def packed(fleet: ColumnProblem, plan: Sequence[DeviceColumn]) -> Packing:
    """Return a plan with its columns on devices.

    Pools of equal hosts are merged in columns, so a host may have no room for a replica of one: it
    is left out.
    """
    sites = fleet.sites
    packing = Packing(sites.instance)
    of_group = fleet.classes.of_group
    free = by_key((int(of_group[load.group]), d) for d, load in enumerate(packing.loads))
    # Columns that draw much from hosts first: later no host may have room for them.
    for column in sorted(plan, key=lambda c: -int(sites.entry_pool[c.entries, 1].sum())):
        items = sites.entry_item[column.entries].tolist()
        device = min(free[column.cls], key=lambda d: _lacking(packing, d, items))
        free[column.cls].remove(device)
        crowd = int(sites.entry_kappa[column.entries].max())
        option = int(sites.option_of[column.site, column.level, crowd])
        for item in items:
            if packing.fits(device, item, option):
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
