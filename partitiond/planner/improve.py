"""The compiled search with its schedule: from a packing, or none, to a better one.

Simulated annealing needs to know how long it has. A first, cold stretch gives a good plan soon;
then the temperature falls from `HOT` to `COLD` over what is left of the time. Prices come from a
bound, and from the column generation as soon as it knows better ones.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from partitiond.planner.arrays import NO_LIMIT, Floats, Problem
from partitiond.planner.bound import Bound
from partitiond.planner.kernels.search import Rules, construct, revalue, search
from partitiond.planner.kernels.state import Data, State, copy_state
from partitiond.planner.neighbourhood import (
    NO_BUDGET,
    empty_state,
    load_packing,
    make_data,
    make_space,
    to_packing,
)
from partitiond.planner.packing import Packing
from partitiond.planner.types import PRICE_SCALE, RATE_SCALE

HOT: Final = 0.05
"""Temperature at first, in the gain of a usual replica or in usual devices: a step that loses a
twentieth of that is kept once in e times. Ten times as much forgets what was found, a tenth stays
where it is."""
COLD: Final = 0.005
COLD_SHARE: Final = 0.15
"""Share of the time that goes to the first, cold stretch."""
NOISE: Final = 0.1
WANTING: Final = 10
OUTSIDE: Final = 10
ALL_OUTSIDE: Final = 1 << 30
FLOOR: Final = 0.1
"""A resource that is plentiful in a bound has price 0 and is scarce on single devices all the
same: so much of a device's price is spread over what an entry takes most of."""
SLICE_SECONDS: Final = 0.05
FIRST_STEPS: Final = 200
FIXED_STEPS_PER_SECOND: Final = 10_000
"""Steps per second of the time limit where the answer may not depend on the clock."""


def prices_of(problem: Problem, bound: Bound) -> Floats:
    """(E,) what an entry takes at the bound's prices, in devices' cost, above 0."""
    entries = {(e.item, e.group, e.option): e for mine in bound.entries.values() for e in mine}
    found = np.zeros(len(problem.entry_item))
    for i, (item, p) in enumerate(zip(problem.entry_item, problem.entry_place, strict=True)):
        place = (int(problem.place_group[p]), int(problem.place_option[p]))
        found[i] = bound.worth(entries[int(item), *place])
    return with_floor(problem, found)


def with_floor(problem: Problem, price: Floats) -> Floats:
    """Prices, and a little for what an entry takes most of."""
    limits = np.where(problem.capacity < NO_LIMIT, np.maximum(problem.capacity, 1), NO_LIMIT)
    share = (problem.entry_use / limits[problem.entry_place]).max(axis=1, initial=0.0)
    share = np.maximum(share, 1.0 / np.maximum(1, problem.max_items[problem.entry_place]))
    usual = float(price.sum() / max(1e-12, share.sum()))
    return np.asarray(price + FLOOR * max(usual, 1e-9) * share)


@dataclasses.dataclass(slots=True)
class Schedule:
    """When which temperature: by the clock, or by steps where the clock may not count."""

    began: float
    seconds: float
    steps: int | None
    done: int = 0

    def share(self) -> float:
        """How much of it is over, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.done / max(1, self.steps))
        return min(1.0, (time.monotonic() - self.began) / max(1e-9, self.seconds))

    def temperature(self) -> float:
        """Cold at first, then from hot to cold."""
        share = self.share()
        if share < COLD_SHARE:
            return COLD
        return HOT * math.pow(COLD / HOT, (share - COLD_SHARE) / (1 - COLD_SHARE))


class Improver:
    """One search.

    Args:
        problem: the instance as arrays.
        price: (E,) what entries take of devices.
        by_cost: whether everything is to be served for less and less, or goodput counts.
        seed: of all random choices.
    """

    def __init__(self, problem: Problem, price: Floats, *, by_cost: bool, seed: int) -> None:
        self.problem, self.by_cost = problem, by_cost
        self.data = _data(problem, price, by_cost=by_cost)
        self.space = make_space(self.data, seed)
        self.unit = _unit(self.data, problem, by_cost=by_cost)
        self.found = False
        """Whether `best` is an answer: in a search by cost, one that lacks nothing."""
        self.steps = 0
        self._slice = FIRST_STEPS

    def start(self, packing: Packing | None) -> None:
        """Begin at a packing, and complete it; frozen models have to be in it."""
        fresh = empty_state(self.data)
        if packing is not None:
            load_packing(self.problem, self.data, packing, fresh)
        copy_state(fresh, self.space.state)
        space = self.space
        construct(
            self.data,
            space.state,
            space.journal,
            space.scratch,
            space.rng,
            self._rules(0.0),
            self._allowed(),
        )
        self._take_in()

    def _allowed(self) -> int:
        return int(self.space.budget[0])

    def _take_in(self) -> None:
        """Keep where the search is, if it is an answer and better."""
        state, best = self.space.state, self.space.best
        if self.by_cost:
            complete = state.worth[0] >= -1e-9
            if complete and (not self.found or state.cost[0] < best.cost[0]):
                copy_state(state, best)
                self.found = True
                self.space.budget[0] = state.cost[0] - 1
        elif not self.found or state.worth[0] > best.worth[0]:
            copy_state(state, best)
            self.found = True

    def adopt(self, packing: Packing | None) -> None:
        """Go on from a plan, if it is better than the best one here."""
        if packing is None:
            return
        value = packing.cost() if self.by_cost else packing.goodput()
        if not self.found or (value < self.value() if self.by_cost else value > self.value()):
            self.start(packing)

    def reprice(self, price: Floats) -> None:
        """Search on with other prices."""
        self.data = _data(self.problem, price, by_cost=self.by_cost)
        self.unit = _unit(self.data, self.problem, by_cost=self.by_cost)
        revalue(self.data, self.space.state)
        revalue(self.data, self.space.best)

    def run(
        self,
        schedule: Schedule,
        *,
        halt: Callable[[], bool],
        tell: Callable[[float], None],
        prices: Callable[[], Floats | None],
        plans: Callable[[], Packing | None] = lambda: None,
    ) -> None:
        """Search until the schedule is over or `halt` says so.

        Args:
            schedule: temperatures and the end.
            halt: asked after every slice of about 0.05 s.
            tell: told the value of every better answer.
            prices: better prices since it was last asked, or None.
            plans: a plan from elsewhere since it was last asked, or None; a better one is gone on
                from.
        """
        while schedule.share() < 1.0 and not halt():
            self.adopt(plans())
            better = prices()
            if better is not None:
                self.reprice(better)
            began = time.monotonic()
            count = self._search(schedule.temperature())
            schedule.done += self._slice
            if count:
                tell(self.value())
            if schedule.steps is None and time.monotonic() - began < SLICE_SECONDS:
                self._slice = min(2 * self._slice, 1 << 20)
            elif schedule.steps is None and time.monotonic() - began > 3 * SLICE_SECONDS:
                self._slice = max(1, self._slice // 2)

    def _search(self, temperature: float) -> int:
        space = self.space
        # Rounding adds up over millions of steps.
        revalue(self.data, space.state)
        self.steps += self._slice
        count = search(
            self.data,
            space.state,
            space.best,
            space.journal,
            space.scratch,
            space.rng,
            self._rules(temperature),
            space.budget,
            self._slice,
        )
        self.found = self.found or count > 0
        return int(count)

    def _rules(self, temperature: float) -> Rules:
        outside = OUTSIDE if temperature > 0 else ALL_OUTSIDE
        return Rules(temperature * self.unit, int(self.by_cost), NOISE, WANTING, outside)

    def value(self) -> float:
        """Cost of the best answer, or its weighted requests/s."""
        best: State = self.space.best
        if self.by_cost:
            return float(best.cost[0]) / PRICE_SCALE
        worth = self.data.values[:, 0] * np.minimum(best.models[:, 0], self.data.models[:, 3])
        return float(worth.sum()) / RATE_SCALE

    def best(self) -> Packing:
        """The best answer; in a search by cost only where `found`."""
        return to_packing(self.problem, self.space.best)


def _data(problem: Problem, price: Floats, *, by_cost: bool) -> Data:
    limits = np.where(problem.capacity < NO_LIMIT, np.maximum(problem.capacity, 1), NO_LIMIT)
    return make_data(problem, price, 1.0 / limits, by_cost=by_cost)


def _unit(data: Data, problem: Problem, *, by_cost: bool) -> float:
    """What a usual device costs at the prices, or what a usual replica gives."""
    if by_cost:
        limits = np.maximum(1, data.places[problem.entry_place, 1])
        worth = data.price * np.minimum(limits, _copies(problem))
        return max(1e-12, float(np.median(worth))) if len(worth) else 1.0
    gains = data.values[problem.entry_model, 0] * np.minimum(
        problem.entry_rate, data.models[problem.entry_model, 3]
    )
    return max(1e-12, float(np.median(gains[gains > 0]))) if (gains > 0).any() else 1.0


def _copies(problem: Problem) -> Floats:
    """(E,) copies of an entry on one device, by its resources alone."""
    limits = problem.capacity[problem.entry_place]
    with np.errstate(divide="ignore"):
        each = np.where(problem.entry_use > 0, limits / np.maximum(1, problem.entry_use), np.inf)
    return np.asarray(np.maximum(1.0, each.min(axis=1, initial=np.inf)))


__all__ = [
    "FIXED_STEPS_PER_SECOND",
    "NO_BUDGET",
    "RATE_SCALE",
    "Improver",
    "Schedule",
    "prices_of",
    "with_floor",
]
