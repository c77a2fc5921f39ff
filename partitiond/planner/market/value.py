"""Derives bounds from prices: covering sets against sets of devices, both over whole replicas.

For any prices pi >= 0 of replicas by their rates and q >= 0 of pools, a plan pays the price of each
replica and earns on each device the worth of its replicas; so

- cost >= sum over models of their cheapest covering set - sum over classes of
  count * max(0, most valuable set of one device - cost of one) - sum of q;
- goodput <= sum over models of the most worth of a set beyond its price + sum over classes of
  count * most valuable set of one device + sum of q,

where q is the price of all of a pool. The value of a set is the sum of pi at the level of
interference that the set reaches, less q times the share that it takes of pools. Both sides are
solved with true rates; if the solve of one side is cut short, that side's own bound is used.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from partitiond.planner.bounds.placements_lp import make_classes
from partitiond.planner.bounds.prices import SAFETY, ClassWorth, best_multiple, bound_at
from partitiond.planner.kernels.branch import DeviceLimits
from partitiond.planner.kernels.pricing import price_way
from partitiond.planner.market.demand import Cover, MarketDemand
from partitiond.planner.model.sites import Floats, Ints, Sites
from partitiond.planner.model.types import PRICE_SCALE
from partitiond.planner.pack.packing import Packing

NODE_LIMIT: Final = 200_000
"""Limit on branches for one way; some milliseconds. Chosen, not measured."""
FLOOR: Final = 0.97
"""Sets worth less than this share of the best set of their class are not searched for. Chosen."""
BESIDE: Final = 12
"""Sets of a round beside the best one, for equal devices. 100 models on 64 equal GPUs converged in
24 to 45 rounds instead of 250 to 330 (to 1e-4); with 24 sets hardly sooner."""


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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class MarketPrices:
    """Prices of rates: of knots (N,), or in `factor` of targets (M,); and of all of each merged
    pool."""

    rate: Floats
    pool: Floats

    def between(self, other: "MarketPrices", share: float) -> "MarketPrices":
        """Mix `share` of these prices with the rest of `other`."""
        return MarketPrices(
            share * self.rate + (1 - share) * other.rate,
            share * self.pool + (1 - share) * other.pool,
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A set of replicas on one device of a class: entries, sorted, with repetitions."""

    cls: int
    site: int
    level: int
    entries: Ints

    @property
    def key(self) -> tuple[int, int, bytes]:
        """Return a key that is equal for equal sets."""
        return (self.cls, self.level, self.entries.tobytes())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The result of evaluating some prices.

    Attributes:
        bound: no plan costs less (gives more). Infinite for a cost if not all can be served.
        prices: prices for which the bound holds: those passed, times a common factor.
        covered: (M,) cost or worth of the models' best sets.
        covers: one set per model, at the prices passed.
        patterns: valuable sets of devices, including the best one of each class.
    """

    bound: float
    prices: MarketPrices
    covered: Floats
    covers: tuple[Cover, ...]
    patterns: tuple[Pattern, ...]


class HaltedError(Exception):
    """The caller asked to stop during an evaluation."""


class Market:
    """Evaluates prices of one instance.

    Args:
        sites: the instance as arrays; for a cost `with_survival`.
        as_cost: True to serve all demand at the least cost; False to maximise goodput.
        halt: called during evaluations, which may take seconds; True ends them.
    """

    def __init__(
        self, sites: Sites, *, as_cost: bool, halt: Callable[[], bool] = lambda: False
    ) -> None:
        self.sites, self.as_cost, self._halt = sites, as_cost, halt
        self.classes = make_classes(sites)
        self.ways = make_ways(sites, as_cost=as_cost)
        held = np.zeros(int(self.classes.site_class.max(initial=-1)) + 1, dtype=np.int64)
        for way in self.ways:
            held[way.cls] = max(held[way.cls], way.place.max_items)
        most = int((held[self.classes.site_class] * self.classes.count).sum())
        self.demand = MarketDemand(sites, as_cost=as_cost, most_replicas=most)

    def cost_of(self, pattern: Pattern) -> float:
        """Return the cost of a device with such a set."""
        extra = float(self.sites.entry_cost[pattern.entries].sum())
        return float(self.classes.cost[pattern.cls]) + extra / PRICE_SCALE

    def drawn(self, pattern: Pattern) -> list[tuple[int, float]]:
        """Return the pools that a set draws from, and the share of each pool that it takes."""
        taken = self.sites.entry_pool[pattern.entries].sum(axis=0)
        classes = self.classes
        share = classes.draws[pattern.cls] * taken[classes.column] / classes.whole
        return [(int(pool), float(share[pool])) for pool in np.flatnonzero(share)]

    def evaluate(self, prices: MarketPrices) -> Evaluation:
        """Return the bound at these prices (a cost: at the best multiple). Raises HaltedError."""
        covered, covers = self.demand.covers(prices.rate)
        patterns, value = self.patterns_at(prices)
        pools, total, bound = float(prices.pool.sum()), math.fsum(covered), math.inf
        worth = ClassWorth(value, self.classes.cost, self.classes.count, pools)
        if not self.as_cost:
            bound = math.fsum([total, *(value * self.classes.count), pools])
            bound += SAFETY * abs(bound)
        elif math.isfinite(total) and self.sites.entry_cost.any():
            # If values include costs of replicas, another factor would change the best sets.
            bound = bound_at(1.0, total, worth)
        elif math.isfinite(total):
            factor, bound = best_multiple(total, worth)
            prices = MarketPrices(prices.rate * factor, prices.pool * factor)
        return Evaluation(bound, prices, covered, tuple(covers), tuple(patterns))

    def patterns_at(self, prices: MarketPrices) -> tuple[list[Pattern], Floats]:
        """Return valuable sets of each class, and bounds on the values of the best ones."""
        found: list[Pattern] = []
        most = np.zeros(len(self.classes.count))
        known: dict[tuple[int, tuple[tuple[int, float], ...]], list[int]] = {}
        for cls, price in enumerate(self.classes.draws * prices.pool / self.classes.whole):
            # Classes that draw from pools of the same price can hold the same sets.
            drawn = np.flatnonzero(price)
            priced = (
                *zip(self.classes.column[drawn].tolist(), price[drawn].tolist(), strict=True),
            )
            known.setdefault((int(self.classes.site_class[cls]), priced), []).append(cls)
        for (held, priced), classes in known.items():
            sets, value = self._sets(held, priced, prices.rate)
            most[classes] = value
            found += [Pattern(c, w.site, w.level, entries) for w, entries in sets for c in classes]
        return found, most

    def _sets(
        self, held: int, priced: tuple[tuple[int, float], ...], knot: Floats
    ) -> tuple[list[tuple[Way, Ints]], float]:
        """Return valuable sets of a device, and a bound on the value of the best one."""
        found: list[tuple[Way, Ints]] = []
        first: tuple[Way, Ints, Floats] | None = None
        best = most = 0.0
        # The best way is mostly the best again, and then few other ways are searched fully.
        mine = sorted((w for w in self.ways if w.cls == held), key=lambda w: -float(w.duals.sum()))
        for way in mine:
            if self._halt():
                raise HaltedError
            value = self._values(way, priced, knot)
            chosen, worth, bound = price_way(
                value, way.most, way.place, way.duals, best * FLOOR, NODE_LIMIT
            )
            most = max(most, bound)
            if len(chosen):
                found.append((way, np.sort(way.entries[chosen])))
            if worth > best:
                best, first = worth, (way, chosen, value)
        devices = int(self.classes.count[self.classes.site_class == held].sum())
        if first is not None:
            found += self._beside(*first, min(BESIDE, devices - 1))
        return found, most

    def _beside(self, way: Way, chosen: Ints, value: Floats, most: int) -> list[tuple[Way, Ints]]:
        """Return up to `most` sets for the devices beside one that holds the best set.

        Each is the best beside those before it: a replica is worth less by the part of its model's
        demand that they serve. The sets of one round thus serve a fleet of equal devices together.
        """
        found, sites = list[tuple[Way, Ints]](), self.sites
        model, fresh = sites.entry_model[way.entries], np.zeros_like(way.duals)
        part = sites.rates[way.entries, way.level] / np.maximum(1, sites.need_rate[model])
        served = np.zeros(len(sites.need_rate))
        for _ in range(most):
            np.add.at(served, model[chosen], part[chosen])
            worth = value * np.maximum(0.0, 1.0 - served[model])
            chosen, _, _ = price_way(worth, way.most, way.place, fresh.copy(), 0.0, NODE_LIMIT)
            if not len(chosen):
                break
            found.append((way, np.sort(way.entries[chosen])))
        return found

    def _values(self, way: Way, priced: tuple[tuple[int, float], ...], knot: Floats) -> Floats:
        """Return the worth of a copy of each entry of a way on a device."""
        e, sites, demand = way.entries, self.sites, self.demand
        value = demand.price_at(knot, demand.below[e, way.level], demand.part[e, way.level])
        for column, price in priced:
            value = value - price * sites.entry_pool[e, column]
        return np.asarray(value - sites.entry_cost[e] / PRICE_SCALE if self.as_cost else value)


def patterns_of(market: Market, packing: Packing) -> list[Pattern]:
    """Return the sets that a packing has on its devices."""
    sites, found = market.sites, list[Pattern]()
    pairs = zip(sites.entry_site.tolist(), sites.entry_item.tolist(), strict=True)
    entry = {pair: e for e, pair in enumerate(pairs)}
    for load in packing.loads:
        if load.option is None:
            continue
        site = sites.site_of[load.group, load.option]
        option = sites.instance.groups[load.group].options[load.option]
        entries: Ints = np.array(sorted(entry[site, item] for item in load.items), dtype=np.int64)
        level = int(np.searchsorted(sites.level[site], option.level))
        found.append(Pattern(int(market.classes.of_group[load.group]), site, level, entries))
    return found
