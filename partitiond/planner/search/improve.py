"""Runs the compiled search on a schedule: improves a packing, or starts from none.

Simulated annealing needs to know its running time. A first, cold phase gives a good plan early; the
temperature then falls from `HOT` to `COLD` over the rest of the time. For cost objectives a
replica's price is its worth at linear prices. With prices by what it takes of a device
(`prices.usual_prices`), plans of shipped instances of 100 x 64 had one to three devices more after
as many steps. For goodput, the mean of both prices is better than either by half a percent.
"""

import math
import operator
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.kernels.anneal import Annealing
from partitiond.planner.kernels.loads import Loads
from partitiond.planner.model.sites import Floats, Sites
from partitiond.planner.model.types import PRICE_SCALE, RATE_SCALE
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.complete import complete
from partitiond.planner.pack.packing import Packing
from partitiond.planner.search.annealing import (
    LEAST_PRICE,
    load_packing,
    make_data,
    running_on,
    to_packing,
)
from partitiond.planner.stop import Stop, never

LEAST_SHARE: Final = 1e-6
"""Least price of a replica, in the largest one; the kernels take a lack of 1e-9 for none."""
HOT: Final = 0.05
"""First temperature, in the gain of a typical replica or in typical devices: a step that loses a
twentieth of that is kept once in e times. With ten times as much the search forgets what it found,
with a tenth it stays where it is. Chosen so; no bench varies it."""
COLD: Final = 0.005
COLD_SHARE: Final = 0.15
"""Share of the time for the first phase, at the last temperature. Both are chosen."""
LARGE: Final = 256
HOT_IF_LARGE, COLD_IF_LARGE = 0.003, 0.001
"""Devices beyond which each has so few steps that the search has to stay colder: after 40 s of a
core 1,000 models on 512 GPUs took 209 GPUs in place of 218, and 208 of 212."""
NOISE: Final = 0.3
WANTING: Final = 5
OUTSIDE: Final = 16
ALL_OUTSIDE: Final = 1 << 30
SLICE_SECONDS: Final = 0.05
FIRST_STEPS: Final = 200
FIXED_STEPS_PER_SECOND: Final = 10_000
"""Steps if the answer may not depend on the clock. All of these are chosen, not measured."""


class Improver:
    """One compiled search.

    Args:
        sites: the instance as arrays.
        worth: (E,) what one replica of each entry takes; above 0.
        by_cost: True to serve all demand at a falling cost; False to maximise goodput.
        seed: seed of all random choices.
        runs: devices and items that run and could stay; load i of a packing is then device i.
        most_gone: limit on these replicas that leave their device; None for no limit.
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
        price = worth if by_cost else np.sqrt(worth * usual_prices(sites))
        # Lacking worth is compared with 0, so the objective's unit must not matter, and no model's
        # replicas may be worth so little beside others that lacking them passes for nothing.
        self.price = np.maximum(price / price.max(initial=LEAST_PRICE), LEAST_SHARE)
        self.data = make_data(sites, self.price, by_cost=by_cost)
        gone = -1 if most_gone is None else most_gone
        self.search = Annealing(self.data, seed, by_cost, running_on(sites, runs), gone)
        self.search.noise, self.search.wanting = NOISE, WANTING
        self.unit = self._unit()
        self.share = 0.0
        """Elapsed share of the time of a run; the run ends at 1."""
        self._slice = FIRST_STEPS

    @property
    def has_answer(self) -> bool:
        """Whether `best` is an answer; by cost it must lack nothing."""
        return self.search.found

    def start(self, packing: Packing | None) -> None:
        """Start at a packing, or at none, and complete it.

        Models that have to be near one another may never find each other on one host by steps that
        place one after the other, so those are placed first.
        """
        fresh, instance = Loads(self.data), self.sites.instance
        if packing is None and instance.ties.near:
            packing = Packing(instance)
            self._complete_tied(packing, never)
        if packing is not None:
            load_packing(self.sites, packing, fresh)
        self.search.state.copy_from(fresh)
        self._heat(0.0)
        self.search.construct()
        self.search.take_in()

    def _heat(self, temperature: float) -> None:
        """Set the temperature, and as many devices to look at as suit it."""
        self.search.temperature = temperature * self.unit
        self.search.outside = OUTSIDE if temperature > 0 else ALL_OUTSIDE

    def run(
        self,
        seconds: float,
        *,
        steps: int | None = None,
        halt: Callable[[], bool],
        tell: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Search until the time is over or `halt` returns True.

        Args:
            seconds: wall-clock time; a deterministic request takes an equivalent number of steps.
            steps: number of steps instead of the time.
            halt: called after every slice of about 0.05 s.
            tell: called with the value of every better answer.
        """
        if steps is None and self.sites.instance.request.deterministic:
            steps = round(FIXED_STEPS_PER_SECOND * seconds)
        start, done, large = time.monotonic(), 0, self.data.devices > LARGE
        self.share = 0.0 if steps or seconds > 0 else 1.0
        while self.share < 1.0 and not halt():
            began = time.monotonic()
            self._heat(_temperature(self.share, large))
            self.search.state.revalue()  # rounding adds up over millions of steps
            done += self._slice
            if self.search.search(self._slice):
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

    def value(self) -> float:
        """Return the cost of the best answer, or its weighted requests/s."""
        best = self.search.best
        if self.by_cost:
            return best.cost / PRICE_SCALE
        counted = np.minimum([*best.gets], [*self.data.limit])
        return float(np.dot([*self.data.slope], counted)) / RATE_SCALE

    def meets_least(self) -> bool:
        """Return whether an answer was found and the best one has all least numbers of replicas."""
        least = [need.min_replicas for need in self.sites.instance.needs]
        return self.has_answer and all(map(operator.ge, self.search.best.number, least))

    def best(self) -> Packing:
        """Return the best answer; in a search by cost only valid if `has_answer`."""
        return to_packing(self.sites, self.search.best)

    def completed(self, packing: Packing, stop: Stop = never) -> Packing:
        """Return a packing with what it lacks, as far as there is room; the search starts there.

        Args:
            packing: it stays as it is.
            stop: called periodically where models have to be near others or survive a loss.
        """
        self.start(packing)
        made = to_packing(self.sites, self.search.state)
        self._complete_tied(made, stop)
        return made

    def _complete_tied(self, packing: Packing, stop: Stop) -> None:
        """Add what the models lack whose rules go beyond one device."""
        instance = self.sites.instance
        tied = [n for n in instance.needs if n.model in instance.ties.beyond_device]
        if tied:
            complete(Adding(packing, usual_prices(self.sites), stop=stop), tied, stop)

    def _unit(self) -> float:
        """Return the cost of a typical device at the prices, or the gain of a typical replica."""
        sites = self.sites
        if self.by_cost:
            use, most = sites.entry_use, np.maximum(1, sites.max_items[sites.entry_site])
            each = np.where(use > 0, sites.capacity[sites.entry_site] / np.maximum(1, use), np.inf)
            worth = self.price * np.clip(each.min(axis=1, initial=np.inf), 1.0, most)
            return max(1e-12, float(np.median(worth))) if len(worth) else 1.0
        slope, limit = np.array([*self.data.slope]), np.array([*self.data.limit])
        rate = np.minimum(sites.rates[:, 0], limit[sites.entry_model])
        gains = slope[sites.entry_model] * rate
        return max(1e-12, float(np.median(gains[gains > 0]))) if (gains > 0).any() else 1.0


def _temperature(share: float, large: bool) -> float:
    """Return the temperature: cold at first, then hot to cold, by the elapsed share of the time."""
    hot, cold = (HOT_IF_LARGE, COLD_IF_LARGE) if large else (HOT, COLD)
    if share < COLD_SHARE:
        return cold
    return hot * math.pow(cold / hot, (share - COLD_SHARE) / (1 - COLD_SHARE))
