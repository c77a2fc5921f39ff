"""Lists the ways to run a device, and what each can hold."""

import dataclasses

import numpy as np

from partitiond.planner.kernels.branch import DeviceLimits
from partitiond.planner.model.sites import Floats, Ints, Sites


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A site at one level and largest kappa.

    Attributes:
        cls: the class of `Sites` that has the site.
        entries: entries that the way can hold.
        place: limits on sets of these entries.
        most: copies of each in a set from which no replica can be removed.
        duals: duals of its limits at the last full evaluation; all 0 before.
    """

    cls: int
    site: int
    level: int
    entries: Ints
    place: DeviceLimits
    most: Ints
    duals: Floats


def make_ways(sites: Sites, *, as_cost: bool) -> list[Way]:
    """Return all ways to run devices; of those with the same load limit, the one holding most."""
    found = list[Way]()
    for site, level in np.ndindex(*sites.limit_of.shape[:2]):
        mine = np.flatnonzero((sites.entry_site == site) & (sites.entry_top >= level))
        rows = sites.limit_of[site, level]
        for row in dict.fromkeys(rows[rows >= 0].tolist()):
            largest = int(np.flatnonzero(rows == row).max())
            entries = mine[sites.entry_kappa[mine] <= largest]
            if len(entries):
                found.append(_way(sites, site, level, row, entries, as_cost=as_cost))
    return found


def _way(sites: Sites, site: int, level: int, row: int, entries: Ints, *, as_cost: bool) -> Way:
    limit = sites.busy_limit[row]
    most = int(np.flatnonzero(limit >= 0).max())
    offset, size = int(sites.table[site]), int(sites.table_size[site])
    place = DeviceLimits(
        use=sites.entry_use[entries],
        busy=sites.entry_busy[entries],
        code=sites.entry_code[entries],
        model=sites.entry_model[entries],
        capacity=sites.capacity[site],
        max_items=most,
        busy_limit=limit,
        table=sites.tables[offset : offset + size] if offset >= 0 else sites.tables[:0],
        avoid=sites.avoid,
    )
    copies = _copies(sites, entries, level, most, as_cost=as_cost)
    duals = np.zeros(sites.entry_use.shape[1] + 2)
    return Way(int(sites.site_class[site]), site, level, entries, place, copies, duals)


def _copies(sites: Sites, entries: Ints, level: int, most: int, *, as_cost: bool) -> Ints:
    """Return the copies of each entry on a device from which no replica can be removed.

    Some best plan has no more copies, as removing surplus costs nothing. Models whose rules go
    beyond one device are not limited, because their surplus may serve a rule.
    """
    model, rate = sites.entry_model[entries], sites.rates[entries, level]
    copies = np.where(rate > 0, -(-sites.need_rate[model] // np.maximum(rate, 1)), 0)
    copies = np.maximum(copies, sites.need_min[model])
    if not as_cost:
        # A plan for goodput may miss least numbers of replicas; then there is no reason for a
        # replica of a model that does not count.
        copies = np.maximum(copies, 1 if sites.need_rated.any() else most)
    beyond = sites.instance.ties.beyond_device
    if beyond:
        tied = np.array([n.model in beyond for n in sites.instance.needs], dtype=bool)
        copies = np.where(tied[model], most, copies)
    return np.minimum(np.minimum(copies, sites.need_max[model]), most).astype(np.int64)
