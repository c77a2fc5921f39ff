"""Computes what models buy: sets of replicas that cover a demand, at prices that follow from rates.

A replica of a model that serves rate r costs pi(r), the model's own function of rates, linear
between a few *knots*. An *offer* is a rate at which some replica of a model can serve.
"""

import dataclasses
import itertools
from typing import Final

import numpy as np

from partitiond.planner.bounds.prices import MANY, SAFETY
from partitiond.planner.kernels.covers import Grid, best_served, cheapest_covers
from partitiond.planner.model.sites import Floats, Ints, Sites
from partitiond.planner.model.types import RATE_SCALE

PARTS: Final = (20, 12, 8, 6, 5, 4, 3, 2, 1)
"""Knots lie at 0 and at these fractions of a demand, where one replica fewer covers it."""
CELLS: Final = 6_000
"""Cells of a demand in which covering sets are counted; rates are rounded up to cells. Chosen."""
FINE: Final = 30
"""Replicas that serve less than this fraction of a demand may be split: if there are many, rounding
each of them up would be most of what they cover. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """A covering set of one model.

    Attributes:
        model: position in `instance.needs`.
        offers, amounts: number of replicas of each offer; not whole for offers that may be split.
        worth: weighted requests/s that the set serves.
    """

    model: int
    offers: Ints
    amounts: Floats
    worth: float


class MarketDemand:
    """Knots and offers of all models.

    Attributes:
        knot_start: (M + 1,) knots of a model are knot_start[m]..[m + 1].
        knot_rate: (N,) rates of the knots.
        below, part: (E, L) for each entry and level the knot below its rate, and the fraction of
            the way from there to the next knot.
        offer_model, offer_rate, offer_below, offer_part: (O,) the same for the offers.
    """

    def __init__(self, sites: Sites, *, as_cost: bool, most_replicas: int) -> None:
        self.sites, self.as_cost, self.most_replicas = sites, as_cost, most_replicas
        knots = [
            sorted({0, *(int(need) // part for part in PARTS)}) if need else [0]
            for need in sites.need_rate
        ]
        self.knot_start = np.cumsum([0, *map(len, knots)], dtype=np.int64)
        self.knot_rate = np.array([rate for mine in knots for rate in mine], dtype=np.int64)
        self.below, self.part = self._between(sites.entry_model[:, None], sites.rates)
        self._make_offers()
        self._make_grid()

    def _between(self, model: Ints, rate: Ints) -> tuple[Ints, Floats]:
        """Return the knot at or below each rate, and the fraction of the way to the next knot."""
        model = np.broadcast_to(model, rate.shape)
        rate = np.minimum(rate, self.sites.need_rate[model])
        below = np.zeros(rate.shape, dtype=np.int64)
        for m in range(len(self.knot_start) - 1):
            first, end = int(self.knot_start[m]), int(self.knot_start[m + 1])
            mine = model == m
            at = np.searchsorted(self.knot_rate[first:end], rate[mine], "right") - 1
            below[mine] = first + np.minimum(at, max(0, end - first - 2))
        above = np.minimum(below + 1, self.knot_start[model + 1] - 1)
        low, high = self.knot_rate[below], self.knot_rate[above]
        part = np.where(high > low, (rate - low) / np.maximum(high - low, 1), 0.0)
        return below, np.asarray(part, dtype=np.float64)

    def _make_offers(self) -> None:
        sites = self.sites
        levels = np.arange(sites.rates.shape[1])
        entries, at = np.nonzero(levels[None, :] <= sites.entry_top[:, None])
        model = sites.entry_model[entries]
        rate = np.minimum(sites.rates[entries, at], sites.need_rate[model])
        pairs = np.unique(np.column_stack([model, rate]).reshape(-1, 2), axis=0)
        self.offer_model, self.offer_rate = pairs[:, 0], pairs[:, 1]
        self.offer_below, self.offer_part = self._between(self.offer_model, self.offer_rate)

    def _make_grid(self) -> None:
        """Make the grid of offers in cells; a model's splittable offers become one entry."""
        sites, need = self.sites, self.sites.need_rate
        wanted = need[self.offer_model]
        split = (self.offer_rate * FINE < wanted) & (self.offer_rate > 0)
        # If the number of replicas is limited, only whole replicas count.
        split &= sites.need_max[self.offer_model] >= -(-wanted // np.maximum(self.offer_rate, 1))
        self._split = {int(m): np.flatnonzero(split & (self.offer_model == m))
                       for m in np.unique(self.offer_model[split])}  # fmt: skip
        single = np.flatnonzero(~split)
        dust = np.array(sorted(self._split), dtype=np.int64)
        entry = np.concatenate([single, -1 - dust]).astype(np.int64)
        owner = np.concatenate([self.offer_model[single], dust]).astype(np.int64)
        order = np.argsort(owner, kind="stable")
        self._entry, owner = entry[order], owner[order]
        cell = np.ones(len(entry), dtype=np.int64)
        for at, offer in enumerate(self._entry.tolist()):
            if offer >= 0 and need[owner[at]]:
                # Integers of any size, so that a cell is never less than what it stands for.
                exact = -(-int(self.offer_rate[offer]) * CELLS // int(need[owner[at]]))
                cell[at] = min(CELLS, exact)
        flat = np.zeros(len(need))
        if not sites.need_rated.any():  # the best replica counts where no model has a rate
            np.maximum.at(flat, sites.entry_model, sites.rates[:, 0].astype(np.float64))
        # Cells are not replicas, so models with such entries have no limit on the number.
        whole = ~np.isin(np.arange(len(need)), dust)
        self._grid = Grid(
            start=np.searchsorted(owner, np.arange(len(need) + 1)).astype(np.int64),
            cell=cell,
            flat=np.asarray(flat * sites.need_weight / RATE_SCALE),
            cells=np.where(need > 0, CELLS, 0).astype(np.int64),
            least=np.where(whole, sites.need_min, 0),
            most=np.where(whole, sites.need_max, MANY),
            reward=sites.need_weight * need / RATE_SCALE / CELLS,
        )

    def price_at(self, knot: Floats, below: Ints, part: Floats) -> Floats:
        """Interpolate the prices of replicas from those of knots."""
        above = np.minimum(below + 1, len(knot) - 1)
        return np.asarray(knot[below] * (1 - part) + knot[above] * part)

    def covers(self, knot: Floats) -> tuple[Floats, list[Cover]]:
        """Return the cost of each model's best set, or its worth beyond its price, and the set.

        Costs are never above the true ones, worths never below.
        """
        offer = self.price_at(knot, self.offer_below, self.offer_part)
        price = np.where(self._entry >= 0, offer[np.maximum(self._entry, 0)], 0.0)
        stands: dict[int, int] = {}
        for at in np.flatnonzero(self._entry < 0):
            m = -1 - int(self._entry[at])
            mine = self._split[m]
            each = offer[mine] / self.offer_rate[mine]
            stands[m] = int(mine[np.argmin(each)])
            price[at] = each.min() * float(self.sites.need_rate[m]) / CELLS
        if self.as_cost:
            found = cheapest_covers(self._grid, price)
            each = np.full(len(self.knot_start) - 1, np.inf)
            np.minimum.at(each, self.offer_model, offer)
            least = self.sites.need_min
            value = np.maximum(found.value, np.where(least > 0, each, 0.0) * least)
        else:
            found = best_served(self._grid, price, self.most_replicas)
            value = np.minimum(found.value, self._if_split(offer))
        chosen = [found.entries[a:b] for a, b in itertools.pairwise(found.start.tolist())]
        return value, [self._cover(m, mine, stands) for m, mine in enumerate(chosen)]

    def _cover(self, m: int, chosen: Ints, stands: dict[int, int]) -> Cover:
        offers, counts = np.unique(self._entry[chosen], return_counts=True)
        amounts = counts.astype(np.float64)
        for at in np.flatnonzero(offers < 0):
            part = counts[at] * float(self.sites.need_rate[m]) / CELLS
            offers[at] = stands[m]
            amounts[at] = part / self.offer_rate[stands[m]]
        sites = self.sites
        rate = min(self.offer_rate[offers] @ amounts, sites.need_rate[m])
        worth = sites.need_weight[m] * rate / RATE_SCALE + amounts.sum() * self._grid.flat[m]
        return Cover(m, offers, amounts, float(worth))

    def _if_split(self, offer: Floats) -> Floats:
        """Return (M,) the most worth beyond the price if replicas could be split, unrounded."""
        sites = self.sites
        cheapest = np.full(len(sites.need_rate), np.inf)
        there = self.offer_rate > 0
        np.minimum.at(cheapest, self.offer_model[there], offer[there] / self.offer_rate[there])
        gain = np.maximum(0.0, sites.need_weight / RATE_SCALE - cheapest)
        most = np.where(sites.need_rate > 0, gain * sites.need_rate, np.inf)
        return np.asarray(most * (1 + SAFETY))

    def first_prices(self, price: Floats) -> Floats:
        """Return (N,) prices of knots, from (E,) what entries take of devices."""
        knot = np.zeros(len(self.knot_rate))
        for m in range(len(self.sites.need_rate)):
            mine = np.flatnonzero(self.sites.entry_model == m)
            if not len(mine):
                continue
            knots = slice(self.knot_start[m], self.knot_start[m + 1])
            rate, each, wanted = self.sites.rates[mine, 0], price[mine], self.knot_rate[knots]
            whole = np.where(rate >= wanted[:, None], each, np.inf).min(axis=1)
            share = wanted * (each / np.maximum(rate, 1)).min()
            knot[knots] = np.where(share > 0, np.minimum(whole, share), whole)
        return knot
