"""Prepares an instance for columns: the ways to run devices, and what is left to be planned."""

import dataclasses
import math
from typing import Final

import numpy as np

from partitiond.core.hardware.kinds import SharingMode
from partitiond.planner.bounds.placements_lp import make_classes
from partitiond.planner.bounds.prices import MANY
from partitiond.planner.columns.pricing import Pricer, Way
from partitiond.planner.model.sites import NO_LIMIT, Floats, Ints, Sites, ints
from partitiond.planner.model.types import RATE_SCALE
from partitiond.planner.model.types import Way as Mode
from partitiond.planner.pack.packing import Packing

STEPS: Final = 48
"""Cells into which memory is cut, where nothing else makes a grid. Chosen."""
UNLIMITED: Final = 1e30


@dataclasses.dataclass(eq=False, slots=True)
class PricedWay:
    """A site at one level and largest kappa.

    Attributes:
        entries: (n,) the entries of `Sites` that it can hold, as the pricing counts them.
        bound: of columns of the models that it was last priced for, at the prices of then.
    """

    site: int
    level: int
    entries: Ints
    way: Way
    bound: float = math.inf


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class DeviceColumn:
    """What one device of a class holds: entries, sorted, with repetitions.

    Attributes:
        cls: the class, as `placements_lp.Classes` counts them.
    """

    cls: int
    site: int
    level: int
    entries: Ints

    @property
    def key(self) -> tuple[int, int, int, bytes]:
        """Return a key that is equal for equal columns."""
        return self.cls, self.site, self.level, self.entries.tobytes()


@dataclasses.dataclass(eq=False, slots=True)
class Rest:
    """What is left to be planned.

    Attributes:
        open: (M,) unserved part of each demand.
        count: (M,) replicas that each model has.
        free: (C,) devices of each class.
        pool: (P,) free part of each merged pool.
    """

    open: Floats
    count: Ints
    free: Ints
    pool: Floats


class ColumnProblem:
    """An instance as the columns take it.

    Attributes:
        worth: (M,) weighted requests/s of each model's whole demand.
        part: (E, L) part of its model's demand that an entry serves at a level; 0 where it cannot.
        ways: for each class of `Sites`, its ways.
        families: classes of `Sites` of the same hardware; the one with the fewest cores first.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites, self.classes = sites, make_classes(sites)
        need = np.where(sites.need_rated.astype(bool), sites.need_rate, 0).astype(np.float64)
        self.worth = sites.need_weight * need / RATE_SCALE
        with np.errstate(divide="ignore", invalid="ignore"):
            part = sites.rates / need[sites.entry_model][:, None]
        self.part = np.where(need[sites.entry_model][:, None] > 0, part, 0.0)
        self.least = sites.need_min
        self.limited = np.flatnonzero(sites.need_max < MANY)
        models = len(need)
        self.pricer = Pricer(sites.avoid.ravel().tolist() if sites.avoid.any() else [], models)
        self._mode_of = self._modes()
        held = int(sites.class_of.max(initial=-1)) + 1
        self.ways: list[list[PricedWay]] = [[] for _ in range(held)]
        for site in range(len(sites.site_class)):
            self.ways[int(sites.site_class[site])] += self._ways(site)
        self.families = self._families()
        self._site_at = {(int(c), self._mode_of[q]): q for q, c in enumerate(sites.site_class)}
        pairs = zip(sites.entry_site.tolist(), sites.entry_item.tolist(), strict=True)
        self.entry_at = {pair: e for e, pair in enumerate(pairs)}

    def columns_of(self, packing: Packing) -> list[DeviceColumn]:
        """Return what the devices of a packing hold, as columns."""
        found = list[DeviceColumn]()
        for index in packing.used():
            load, option = packing.loads[index], packing.option(index)
            site = self.sites.site_of[load.group, load.option or 0]
            level = int(np.searchsorted(self.sites.level[site], option.level))
            entries = ints(sorted(self.entry_at[site, item] for item in load.items))
            found.append(DeviceColumn(int(self.classes.of_group[load.group]), site, level, entries))
        return found

    def all(self) -> Rest:
        """Return the whole question."""
        models = len(self.worth)
        return Rest(
            np.where(self.worth > 0, 1.0, 0.0),
            np.zeros(models, dtype=np.int64),
            self.classes.count.copy(),
            np.ones(self.classes.pools),
        )

    def take(self, rest: Rest, column: DeviceColumn) -> None:
        """Subtract a column from what is left."""
        model = self.sites.entry_model[column.entries]
        np.subtract.at(rest.open, model, self.part[column.entries, column.level])
        rest.open[rest.open < 1e-9] = 0.0
        np.add.at(rest.count, model, 1)
        rest.free[column.cls] -= 1
        rest.pool -= self.drawn(column)

    def drawn(self, column: DeviceColumn) -> Floats:
        """Return the (P,) share of each merged pool that a column takes."""
        taken = self.sites.entry_pool[column.entries].sum(axis=0)
        classes = self.classes
        return np.asarray(
            classes.draws[column.cls] * taken[classes.column] / classes.whole, dtype=np.float64
        )

    def pool_prices(self, pool: Floats, cls: int) -> tuple[float, float]:
        """Return the price of a core and of a byte of the host, on a device of a class.

        Args:
            pool: (P,) price of all of each merged pool.
        """
        each = self.classes.draws[cls] * pool / self.classes.whole
        cores = self.classes.column == 0
        return float(each[cores].sum()), float(each[~cores].sum())

    def on(self, column: DeviceColumn, cls: int) -> DeviceColumn | None:
        """Return a column as one of another class; None if that class cannot hold it."""
        sites, held = self.sites, int(self.classes.site_class[cls])
        if held == int(sites.site_class[column.site]):
            return dataclasses.replace(column, cls=cls)
        site = self._site_at.get((held, self._mode_of[column.site]))
        if site is None:
            return None
        found = [self.entry_at.get((site, int(i))) for i in sites.entry_item[column.entries]]
        there = [e for e in found if e is not None]
        level = int(np.searchsorted(sites.level[site], sites.level[column.site, column.level]))
        if len(there) < len(found) or level >= sites.level.shape[1]:
            return None
        entries: Ints = np.array(sorted(there), dtype=np.int64)
        other = DeviceColumn(cls, site, level, entries)
        return other if self.holds(other) else None

    def holds(self, column: DeviceColumn) -> bool:
        """Return whether a device of the column's class can hold it, by the instance's integers."""
        sites, mine, site, level = self.sites, column.entries, column.site, column.level
        row = sites.limit_of[site, level, int(sites.entry_kappa[mine].max())]
        if row < 0 or (sites.entry_top[mine] < level).any():
            return False
        limit = sites.busy_limit[row]
        if len(mine) >= len(limit) or int(sites.entry_busy[mine].sum()) > limit[len(mine)]:
            return False
        if (sites.entry_use[mine].sum(axis=0) > sites.capacity[site]).any():
            return False
        model = sites.entry_model[mine]
        if sites.avoid[np.ix_(model, model)].any():
            return False
        if sites.table[site] < 0:
            return True
        code = int(sites.entry_code[mine].sum())
        return code < sites.table_size[site] and bool(sites.tables[sites.table[site] + code])

    def _modes(self) -> list[Mode]:
        found: dict[int, Mode] = {}
        for (group, option), site in self.sites.site_of.items():
            found[site] = self.sites.instance.groups[group].options[option].way
        return [found[q] for q in range(len(self.sites.site_class))]

    def _families(self) -> list[list[int]]:
        """Group the classes of `Sites` by hardware."""
        found: dict[str, list[int]] = {}
        for group in self.sites.instance.groups:
            held = int(self.sites.class_of[group.index])
            mine = found.setdefault(group.hardware, [])
            if held not in mine:
                mine.append(held)
        room = [max((int(w.way.most) for w in ways), default=0) for ways in self.ways]
        return [sorted(mine, key=lambda held: room[held]) for mine in found.values()]

    def _ways(self, site: int) -> list[PricedWay]:
        """Return the ways of a site; of those with the same load limit, the one holding most."""
        sites, found = self.sites, list[PricedWay]()
        for level in range(sites.limit_of.shape[1]):
            if level and sites.level[site, level] == sites.level[site, level - 1]:
                break
            mine = np.flatnonzero((sites.entry_site == site) & (sites.entry_top >= level))
            rows = sites.limit_of[site, level]
            for row in dict.fromkeys(rows[rows >= 0].tolist()):
                kappa = int(np.flatnonzero(rows == row).max())
                entries = mine[sites.entry_kappa[mine] <= kappa]
                if len(entries):
                    found.append(self._way(site, level, row, entries))
        return found

    def _way(self, site: int, level: int, row: int, entries: Ints) -> PricedWay:
        sites, mode = self.sites, self._mode_of[site][0]
        use, capacity = sites.entry_use[entries], sites.capacity[site]
        memory, sm, cores, slices, compute = use.T
        limit = sites.busy_limit[row]
        most = most_replicas(limit, use, capacity)
        second, room = memory.astype(np.float64), _float(int(capacity[0]))
        if mode is None:
            cells, grid = np.zeros(len(entries), dtype=np.int64), 0
        elif mode is SharingMode.MIG:
            cells, grid = slices, int(capacity[3])
            second, room = compute.astype(np.float64), _float(int(capacity[4]))
        elif sm.any():
            unit = int(np.gcd.reduce(sm))
            cells, grid = sm // unit, int(capacity[1]) // unit
        elif mode is SharingMode.CORES and capacity[2] < NO_LIMIT:
            cells, grid = cores, int(capacity[2])
        else:
            cells, grid = memory * STEPS // max(1, int(capacity[0])), STEPS
        offset, size = int(sites.table[site]), int(sites.table_size[site])
        way = Way(
            model=sites.entry_model[entries].tolist(),
            cells=cells.tolist(),
            memory=second.tolist(),
            load=sites.entry_busy[entries].astype(np.float64).tolist(),
            cores=cores.astype(np.float64).tolist(),
            pools=sites.entry_pool[entries].astype(np.float64).ravel().tolist(),
            code=sites.entry_code[entries].tolist(),
            part=self.part[entries, level].tolist(),
            grid=grid,
            room=room,
            core_room=_float(int(capacity[2])),
            limit=[_float(int(x)) for x in limit[: max(1, most) + 1]],
            table=sites.tables[offset : offset + size].tolist() if offset >= 0 else [],
        )
        return PricedWay(site, level, entries, way)


def most_replicas(limit: Ints, use: Ints, capacity: Ints) -> int:
    """Return how many replicas a device holds at most: what some replica needs nothing of bounds
    nothing.

    Args:
        limit: (R,) load that so many replicas may have together; negative if they may not be.
        use: (E, 5) of each entry: memory, SM, cores, slices, compute slices.
        capacity: (5,) of the device.
    """
    most = int(np.flatnonzero(limit >= 0).max())
    for have, least in zip(capacity.tolist(), use.min(axis=0).tolist(), strict=True):
        if have < NO_LIMIT and least > 0:
            most = min(most, have // least)
    return most


def pricing_work(sites: Sites) -> int:
    """Return the steps of the longest pricing of one device, which nothing can stop midway."""
    found = 0
    for site in set(sites.entry_site.tolist()):
        use, capacity = sites.entry_use[sites.entry_site == site], sites.capacity[site]
        rows = sites.limit_of[site]
        most = max(
            most_replicas(sites.busy_limit[row], use, capacity) for row in set(rows[rows >= 0])
        )
        by_cores = capacity[2] < NO_LIMIT and not use[:, 1].any()
        cells = max(STEPS, int(capacity[2])) if by_cores else STEPS
        models = len(set(sites.entry_model[sites.entry_site == site].tolist()))
        found = max(found, models * (cells + 1) * (most + 1))
    return found


def _float(limit: int) -> float:
    return float(limit) if limit < NO_LIMIT // 2 else UNLIMITED
