"""What some prices prove: covering sets against sets of devices, both over whole replicas.

For any prices pi >= 0 of replicas by their rates and q >= 0 of pools, a plan pays for each replica
its price and earns on each device what its replicas are worth; so

- cost >= sum over models of their cheapest covering set - sum over classes of
  count * max(0, most valuable set of one device - cost of one) - sum of q;
- goodput <= sum over models of the most worth of a set beyond its price + sum over classes of
  count * most valuable set of one device + sum of q,

where q is the price of all of a pool, and the value of a set is the sum of pi at the level of
interference that the set reaches, less q times the share it takes of pools. Both sides are solved
with true rates, and where one is cut short its own bound is used.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from partitiond.planner.kernels.pricing import price_way
from partitiond.planner.market.demand import Cover, Demand
from partitiond.planner.market.goods import Way, make_classes, make_ways
from partitiond.planner.packing import Packing
from partitiond.planner.sites import Floats, Ints, Sites
from partitiond.planner.types import PRICE_SCALE
from partitiond.planner.weighted import SAFETY, Worth, best_multiple, bound_at

NODE_LIMIT: Final = 200_000
"""Branches for one way; some milliseconds."""
FLOOR: Final = 0.97
"""Sets worth less than this share of the best of their class are not looked for."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Of knots (N,), and of all of each merged pool."""

    knot: Floats
    pool: Floats

    def scaled(self, factor: float) -> "Prices":
        """All prices times a factor."""
        return Prices(self.knot * factor, self.pool * factor)

    def between(self, other: "Prices", share: float) -> "Prices":
        """`share` of these and the rest of `other`."""
        return Prices(
            share * self.knot + (1 - share) * other.knot,
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
        """What makes it the same as another one."""
        return (self.cls, self.level, self.entries.tobytes())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What some prices show.

    Attributes:
        bound: no plan costs less (gives more). Infinite for a cost: not all can be served.
        prices: for which the bound holds; the ones asked for but for a common factor.
        covered: (M,) cost or worth of the models' best sets.
        covers: one set a model, at the prices asked for.
        patterns: valuable sets of devices, the best of each class among them.
    """

    bound: float
    prices: Prices
    covered: Floats
    covers: tuple[Cover, ...]
    patterns: tuple[Pattern, ...]


class HaltedError(Exception):
    """Somebody asked to end within an evaluation."""


class Market:
    """Evaluates prices of one instance.

    Args:
        sites: the instance as arrays; for a cost `with_survival`.
        as_cost: whether everything is to be served for the least, or goodput counts.
        halt: asked in the middle of evaluations, which may take seconds.
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
        self.demand = Demand(sites, as_cost=as_cost, most_replicas=most)

    def evaluate(self, prices: Prices) -> Evaluation:
        """The bound at these prices; for a cost at the best multiple of them.

        Raises:
            HaltedError: it was asked to end.
        """
        covered, covers = self.demand.covers(prices.knot)
        patterns, value = self.patterns_at(prices)
        pools = float(prices.pool.sum())
        found = Evaluation(math.inf, prices, covered, tuple(covers), tuple(patterns))
        total = math.fsum(covered)
        if not self.as_cost:
            bound = math.fsum([total, *(value * self.classes.count), pools])
            return dataclasses.replace(found, bound=bound + SAFETY * abs(bound))
        if not math.isfinite(total):
            return found
        worth = Worth(value, self.classes.cost, self.classes.count, pools)
        if self.sites.entry_cost.any():
            # With costs of replicas in the values a factor would change the sets.
            return dataclasses.replace(found, bound=bound_at(1.0, total, worth))
        factor, bound = best_multiple(total, worth)
        return dataclasses.replace(
            found, bound=bound, prices=prices if factor == 1.0 else prices.scaled(factor)
        )

    def patterns_at(self, prices: Prices) -> tuple[list[Pattern], Floats]:
        """Valuable sets of each class, and bounds of the most valuable ones' values."""
        found: list[Pattern] = []
        most = np.zeros(len(self.classes.count))
        known: dict[tuple[int, tuple[tuple[int, float], ...]], list[int]] = {}
        for cls, draws in enumerate(self.classes.draws):
            # Classes that draw from pools of the same price hold the same sets.
            drawn = ((d.column, float(prices.pool[d.pool]) / d.whole) for d in draws)
            priced = tuple(pair for pair in drawn if pair[1])
            known.setdefault((int(self.classes.site_class[cls]), priced), []).append(cls)
        for (held, priced), classes in known.items():
            sets, value = self._sets(held, priced, prices.knot)
            most[classes] = value
            found += [Pattern(c, w.site, w.level, entries) for w, entries in sets for c in classes]
        return found, most

    def _sets(
        self, held: int, priced: tuple[tuple[int, float], ...], knot: Floats
    ) -> tuple[list[tuple[Way, Ints]], float]:
        """Valuable sets of a device, and a bound of the most valuable one's value."""
        found: list[tuple[Way, Ints]] = []
        best = most = 0.0
        # What was worth most is mostly so again, and with it little else is looked at closely.
        mine = sorted((w for w in self.ways if w.cls == held), key=lambda w: -float(w.duals.sum()))
        for way in mine:
            if self._halt():
                raise HaltedError
            value = self._values(way, priced, knot)
            chosen, worth, bound = price_way(
                value, way.most, way.place, way.duals, best * FLOOR, NODE_LIMIT
            )
            most, best = max(most, bound), max(best, worth)
            if len(chosen):
                found.append((way, np.sort(way.entries[chosen])))
        return found, most

    def _values(self, way: Way, priced: tuple[tuple[int, float], ...], knot: Floats) -> Floats:
        """What a copy of each entry of a way is worth on a device."""
        e, sites, demand = way.entries, self.sites, self.demand
        value = demand.price_at(knot, demand.below[e, way.level], demand.part[e, way.level])
        for column, price in priced:
            value = value - price * sites.entry_pool[e, column]
        return np.asarray(value - sites.entry_cost[e] / PRICE_SCALE if self.as_cost else value)


def patterns_of(market: Market, packing: Packing) -> list[Pattern]:
    """What a packing has on its devices."""
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
