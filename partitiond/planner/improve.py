"""The compiled search with its schedule: from a packing, or none, to a better one.

Simulated annealing needs to know how long it has. A first, cold stretch gives a good plan soon;
then the temperature falls from `HOT` to `COLD` over what is left of the time. Where cost counts, a
replica's price is what it is worth at linear prices. With what it takes of a device instead
(`prices.usual_prices`), plans of shipped instances of 100 x 64 had one to three devices more after
as many steps. Where goodput counts, the mean of both is better than either by half a percent. Plans
that the column generation finds are taken over where they are better.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from partitiond.planner.adding import Adding
from partitiond.planner.annealing import (
    LEAST_PRICE,
    empty_state,
    load_packing,
    make_data,
    make_here,
    make_scratch,
    to_packing,
)
from partitiond.planner.complete import complete
from partitiond.planner.kernels.anneal import Rules, construct, revalue, search
from partitiond.planner.kernels.loads import Data, copy_state
from partitiond.planner.packing import Packing
from partitiond.planner.prices import usual_prices
from partitiond.planner.sites import Floats, Sites
from partitiond.planner.types import PRICE_SCALE, RATE_SCALE

HOT: Final = 0.05
"""Temperature at first, in the gain of a usual replica or in usual devices: a step that loses a
twentieth of that is kept once in e times. Ten times as much forgets what was found, a tenth stays
where it is."""
COLD: Final = 0.005
COLD_SHARE: Final = 0.15
"""Share of the time that goes to the first, cold stretch."""
NO_BUDGET: Final = 1 << 62
NOISE: Final = 0.3
WANTING: Final = 5
OUTSIDE: Final = 16
ALL_OUTSIDE: Final = 1 << 30
SLICE_SECONDS: Final = 0.05
FIRST_STEPS: Final = 200
FIXED_STEPS_PER_SECOND: Final = 10_000
"""Steps per second of the time limit where the answer may not depend on the clock."""


class Improver:
    """One search.

    Args:
        sites: the instance as arrays.
        worth: (E,) what one replica of each entry takes; above 0.
        by_cost: whether everything is to be served for less and less, or goodput counts.
        seed: of all random choices.
        runs: devices and items of what runs and could stay; load i of a packing is device i then.
        most_gone: replicas of these that may leave their device; None for no limit.
    """

    def __init__(
        self,
        sites: Sites,
        worth: Floats,
        *,
        by_cost: bool,
        seed: int,
        runs: Sequence[tuple[int, int]] = (),
        most_gone: int | None = None,
    ) -> None:
        self.sites, self.by_cost = sites, by_cost
        self.here = make_here(sites, runs, most_gone)
        price = worth if by_cost else np.sqrt(worth * usual_prices(sites))
        # What is lacking is compared with 0, so that the objective's unit may not count.
        price = price / price.max(initial=LEAST_PRICE)
        self.data = make_data(sites, price, by_cost=by_cost)
        self.state, self.best_state = empty_state(self.data), empty_state(self.data)
        self.scratch = make_scratch(self.data, seed)
        self.budget = np.full(1, NO_BUDGET, dtype=np.int64)
        """What an answer may cost, where cost counts: less than the best one."""
        self.unit = _unit(self.data, self.sites, by_cost=by_cost)
        self.found = False
        """Whether `best` is an answer: in a search by cost, one that lacks nothing."""
        self.share = 0.0
        """How much of the time of a run is over; from 1 on it is."""
        self._slice = FIRST_STEPS

    def start(self, packing: Packing | None) -> None:
        """Begin at a packing, in which frozen models are, or at none, and complete it."""
        fresh, instance = empty_state(self.data), self.sites.instance
        if packing is None and instance.ties.near:
            adding = Adding(Packing(instance), usual_prices(self.sites))
            complete(adding, [n for n in instance.needs if n.model in instance.ties.beyond_device])
            packing = adding.packing
        if packing is not None:
            load_packing(self.sites, self.data, packing, fresh)
        copy_state(fresh, self.state)
        rules = self._rules(0.0)
        construct(self.data, self.state, self.scratch, rules, int(self.budget[0]))
        self._take_in()

    def _take_in(self) -> None:
        """Keep where the search is, if it is an answer and better."""
        state, best = self.state, self.best_state
        if self.by_cost:
            complete = state.worth[0] >= -1e-9
            if complete and (not self.found or state.cost[0] < best.cost[0]):
                copy_state(state, best)
                self.found = True
                self.budget[0] = state.cost[0] - 1
        elif not self.found or state.worth[0] > best.worth[0]:
            copy_state(state, best)
            self.found = True

    def adopt(self, packing: Packing | None) -> None:
        """Go on from a plan, if it is better than the best one here; what it lacks is added."""
        if packing is None:
            return
        value = packing.cost() if self.by_cost else packing.goodput()
        if not self.found or (value < self.value() if self.by_cost else value > self.value()):
            self.start(packing)

    def run(
        self,
        seconds: float,
        *,
        steps: int | None = None,
        halt: Callable[[], bool],
        tell: Callable[[float], object] = lambda _: None,
        plans: Callable[[], Packing | None] = lambda: None,
    ) -> None:
        """Search until the time is over or `halt` says so.

        Args:
            seconds: by the clock; a deterministic request takes so many steps as stand for them.
            steps: in their place.
            halt: asked after every slice of about 0.05 s.
            tell: told the value of every better answer.
            plans: a plan from elsewhere since it was last asked, or None; a better one is gone on
                from.
        """
        if steps is None and self.sites.instance.request.deterministic:
            steps = round(FIXED_STEPS_PER_SECOND * seconds)
        start, done = time.monotonic(), 0
        self.share = 1.0 if steps is None and seconds <= 0 else 0.0
        while self.share < 1.0 and not halt():
            self.adopt(plans())
            began = time.monotonic()
            count = self._search(_temperature(self.share))
            done += self._slice
            if count:
                tell(self.value())
            now = time.monotonic()
            if steps is not None:
                self.share = done / max(1, steps)
                continue
            self.share = (now - start) / seconds
            if now - began < SLICE_SECONDS:
                self._slice = min(2 * self._slice, 1 << 20)
            elif now - began > 3 * SLICE_SECONDS:
                self._slice = max(1, self._slice // 2)

    def _search(self, temperature: float) -> int:
        # Rounding adds up over millions of steps.
        revalue(self.data, self.state)
        count = search(
            self.data,
            self.state,
            self.best_state,
            self.scratch,
            self._rules(temperature),
            self.budget,
            self.here,
            self._slice,
        )
        self.found = self.found or count > 0
        return int(count)

    def _rules(self, temperature: float) -> Rules:
        outside = OUTSIDE if temperature > 0 else ALL_OUTSIDE
        return Rules(temperature * self.unit, int(self.by_cost), NOISE, WANTING, outside)

    def value(self) -> float:
        """Cost of the best answer, or its weighted requests/s."""
        best = self.best_state
        if self.by_cost:
            return float(best.cost[0]) / PRICE_SCALE
        worth = self.data.values[:, 0] * np.minimum(best.models[:, 0], self.data.models[:, 3])
        return float(worth.sum()) / RATE_SCALE

    def best(self) -> Packing:
        """The best answer; in a search by cost only where `found`."""
        return to_packing(self.sites, self.best_state)


def _temperature(share: float) -> float:
    """Cold at first, then from hot to cold, by the share of the time that is over."""
    if share < COLD_SHARE:
        return COLD
    return HOT * math.pow(COLD / HOT, (share - COLD_SHARE) / (1 - COLD_SHARE))


def _unit(data: Data, sites: Sites, *, by_cost: bool) -> float:
    """What a usual device costs at the prices, or what a usual replica gives."""
    if by_cost:
        use, most = sites.entry_use, np.maximum(1, sites.max_items[sites.entry_site])
        each = np.where(use > 0, sites.capacity[sites.entry_site] / np.maximum(1, use), np.inf)
        worth = data.price * np.clip(each.min(axis=1, initial=np.inf), 1.0, most)
        return max(1e-12, float(np.median(worth))) if len(worth) else 1.0
    gains = data.values[sites.entry_model, 0] * np.minimum(
        sites.rates[:, 0], data.models[sites.entry_model, 3]
    )
    return max(1e-12, float(np.median(gains[gains > 0]))) if (gains > 0).any() else 1.0
