"""Double column generation: bounds, prices and good sets of replicas, better with every round.

Dantzig-Wolfe on both sides: sets of replicas that one device holds, and sets that cover one
model, meet in a linear program (`columns_master`) whose duals price the slots. Both kinds of
columns are priced exactly and over whole replicas (`columns_value`), so the bound is at least as
strong as the configuration LP's and as the weighted-resource bound, from whose prices it starts.
Every round gives a valid bound. Prices are smoothed towards those of the best bound (Wentges
1997): the master's own jump about in early rounds.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from partitiond.planner.arrays import Floats, Ints, Problem
from partitiond.planner.bound import round_up
from partitiond.planner.columns_dive import dive_again_and_again
from partitiond.planner.columns_master import UNSERVED, Master, Solution
from partitiond.planner.columns_rows import Rows, make_rows
from partitiond.planner.columns_value import Evaluation, Evaluator, Prices
from partitiond.planner.kernels.pricing import many_patterns
from partitiond.planner.packing import Packing
from partitiond.planner.weighted import entry_prices, solve_weighted

SMOOTHING: Final = 0.8
"""Share of the best bound's prices in those that are evaluated."""
CONVERGED: Final = 1e-6
"""Relative distance of the master's value to the bound at which nothing is left to gain."""
ROUNDS: Final = 400
BOUND_SHARE: Final = 0.6
"""Share of the time for rounds, where plans are wanted as well."""
DIVES: Final = 200
RETRIES: Final = 5
PATTERN_NODES: Final = 300
"""Branches for each of the many further sets of a round."""
SETS_A_ROUND: Final = 512
"""Further sets at most, around slots chosen at random where there are more."""
STEEPER: Final = 100.0

Kind = Literal["cost", "goodput"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ColumnsResult:
    """What the column generation knows when it ends.

    Attributes:
        bound: no plan costs less, or gives more weighted requests/s. Infinite for a cost: it is
            proven that not all can be served.
        entry_price: (E,) worth of one replica of each entry, in costs or weighted requests/s.
        patterns: sets of replicas on one device: place, entries, counts; with slots filled by
            the entries that the covering sets in the solution take most of.
        lp_weights: devices that hold each of them in the master's solution.
        converged: the bound is the best that this relaxation gives.
        rounds: master solves.
    """

    bound: float
    entry_price: Floats
    patterns: tuple[tuple[int, Ints, Ints], ...]
    lp_weights: Floats
    converged: bool
    rounds: int


OnBound = Callable[[float, Floats], None]
OnPlan = Callable[[Packing], None]


def generate(
    problem: Problem,
    *,
    kind: Kind,
    deadline: float,
    seed: int = 0,
    on_bound: OnBound | None = None,
    rounds: int = ROUNDS,
    on_plan: OnPlan | None = None,
    dives: int = DIVES,
) -> ColumnsResult:
    """Run rounds until nothing is gained or the time is over; then look for plans.

    Args:
        kind: what is bounded.
        deadline: in `time.monotonic()` seconds.
        seed: of the choice of further sets where there are many slots.
        on_bound: told each better bound and its entry prices.
        rounds: work limit; with a far deadline it alone ends the run, on any machine alike.
        on_plan: told of each plan that dives give. Such plans keep all limits of devices and
            pools, but may lack something, and know no rules that go beyond one device.
        dives: work limit of these.
    """
    columns = Columns(problem, kind, on_bound, seed)
    now = time.monotonic()
    share = 1.0 if on_plan is None else BOUND_SHARE
    columns.run(now + share * (deadline - now), rounds)
    if on_plan is not None and columns.solution is not None:
        dive_again_and_again(columns, deadline, on_plan, dives=dives, seed=seed)
    return columns.result()


class Columns:
    """The state of a column generation; `run` goes on where the last one stopped."""

    def __init__(
        self, problem: Problem, kind: Kind, on_bound: OnBound | None = None, seed: int = 0
    ) -> None:
        self.as_cost = kind == "cost"
        self.rows: Rows = make_rows(problem, self.as_cost)
        self.evaluator = Evaluator(self.rows, self.as_cost)
        self.on_bound, self.rounds, self.converged = on_bound, 0, False
        self._random = np.random.default_rng(seed)
        self.best = self._first()
        self._tell()
        self.master = Master(self.rows, self.as_cost, self._penalty())
        self.master.add(self.best)
        self.solution: Solution | None = None

    def _first(self) -> Evaluation:
        """At the prices of the weighted-resource relaxation; of equal slots the highest."""
        rows = self.rows
        found = solve_weighted(rows.entries, self.as_cost)
        slot = np.zeros(len(rows.most))
        if found is None:
            nothing = Prices(slot, np.zeros(len(rows.slots.pool_capacity)))
            return dataclasses.replace(self.evaluator.evaluate(nothing), bound=math.inf)
        np.maximum.at(slot, rows.slot_of, entry_prices(rows.entries, found))
        return self.evaluator.evaluate(Prices(slot, found.pool))

    def _penalty(self) -> Floats:
        """What it costs to leave each model unserved, at first."""
        covers = np.where(np.isfinite(self.best.covers.value), self.best.covers.value, 0.0)
        dearest = float(self.rows.cost.max()) if len(self.rows.cost) else 0.0
        return UNSERVED * (covers + dearest)

    def run(self, deadline: float, rounds: int = ROUNDS) -> None:
        """Rounds until nothing is gained, `deadline` (monotonic) or the number of rounds."""
        if not len(self.rows.most) or math.isinf(self.best.bound):
            self.converged = True
            return
        self._diversify(self.best.prices)
        for _ in range(rounds):
            left = deadline - time.monotonic()
            if left <= 0 or self.converged:
                return
            solution = self.master.solve(left)
            if solution is None:
                return
            self.rounds += 1
            self.solution = solution
            self._round(solution, deadline)

    def _round(self, solution: Solution, deadline: float) -> None:
        new = self._separate(solution, deadline)
        if math.isinf(self.best.bound):
            self.converged = True
            return
        if time.monotonic() < deadline:
            new += self._diversify(solution.prices)
        gap = abs(solution.value - self.best.bound)
        if new and gap > CONVERGED * max(1.0, abs(self.best.bound)):
            return
        if self.as_cost and solution.unserved > CONVERGED:
            self.master.raise_penalty(STEEPER)
            self.converged = solution.value > 1e12 * max(1.0, self.best.bound)
            return
        self.converged = True

    def _separate(self, solution: Solution, deadline: float) -> int:
        """Price nearer and nearer to the master's own prices until columns are new."""
        share, new = SMOOTHING, 0
        for attempt in range(RETRIES + 1):
            if attempt == RETRIES:
                share = 0.0
            found = self.evaluator.evaluate(self.best.prices.between(solution.prices, share))
            new = self.master.add(found)
            self._offer(found)
            if new or share == 0.0 or time.monotonic() > deadline:
                break
            share *= 0.5
        return new

    def _offer(self, found: Evaluation) -> None:
        better = found.bound > self.best.bound if self.as_cost else found.bound < self.best.bound
        if better:
            self.best = found
            self._tell()

    def _tell(self) -> None:
        if self.on_bound is not None:
            self.on_bound(self.bound(), self.entry_price())

    def _diversify(self, prices: Prices) -> int:
        """Further sets at these prices, one around each slot; how many are new."""
        value = self.evaluator.slot_values(prices)
        slots, new = self.rows.slots, 0
        worthy = np.flatnonzero(value > 0)
        if len(worthy) > SETS_A_ROUND:
            worthy = np.sort(self._random.choice(worthy, SETS_A_ROUND, replace=False))
        for place in range(len(slots.place_group)):
            mine = worthy[slots.entry_place[worthy] == place]
            if len(mine):
                found = many_patterns(
                    slots, place, value, self.rows.most, mine, node_limit=PATTERN_NODES
                )
                new += self.master.add_patterns(found)
        return new

    def bound(self) -> float:
        """The best bound so far, rounded to what a plan's value can be."""
        return round_up(self.rows.entries, self.best.bound) if self.as_cost else self.best.bound

    def entry_price(self) -> Floats:
        """(E,) worth of one replica of each entry at the best bound."""
        rows = self.rows
        slot = self.best.prices.slot[rows.slot_of]
        return slot[rows.classes.entry_of] if len(slot) else np.zeros(0)

    def result(self) -> ColumnsResult:
        """What is known now."""
        patterns, weights = self._patterns()
        return ColumnsResult(
            bound=self.bound(),
            entry_price=self.entry_price(),
            patterns=tuple(patterns),
            lp_weights=np.array(weights, dtype=np.float64),
            converged=self.converged,
            rounds=self.rounds,
        )

    def _patterns(self) -> tuple[list[tuple[int, Ints, Ints]], list[float]]:
        """Sets in the solution, with entries of the original problem for their slots."""
        if self.solution is None:
            return [], []
        favourite = self._favourites(self.solution)
        back = np.zeros(len(self.rows.slot_of), dtype=np.int64)
        back[self.rows.classes.entry_of[::-1]] = np.arange(len(self.rows.classes.entry_of))[::-1]
        found, weights = [], []
        for at in np.flatnonzero(self.solution.devices > 1e-9):
            device = self.master.devices[at]
            entries = back[favourite[list(device.rows)]]
            place = int(self.rows.classes.place_of[device.place])
            found.append((place, entries, np.array(device.counts, dtype=np.int64)))
            weights.append(float(self.solution.devices[at]))
        return found, weights

    def _favourites(self, solution: Solution) -> Ints:
        """(S,) the entry of each slot that the solution's covering sets take most of."""
        taken = np.zeros(len(self.rows.slot_of))
        for weight, cover in zip(solution.covers, self.master.covers, strict=False):
            if weight > 1e-9:
                for entry in cover.entries:
                    taken[entry] += weight
        order = np.lexsort((taken, self.rows.slot_of))
        last = np.searchsorted(self.rows.slot_of[order], np.arange(len(self.rows.most)), "right")
        return np.asarray(order[last - 1], dtype=np.int64)
