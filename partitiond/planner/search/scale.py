"""Finds the largest common factor by which all demands can be served alike.

`max-min` asks for the largest factor t at which every model gets t times its target: the demand
times the weight. A model never gets more than its demand. (If no model has a rate, 1 request/s
replaces the demand.) The part of a demand that has to survive a loss is only reported. At a given
factor this is the question of the cost objectives, "is there a plan that serves everything",
without the cost, on an instance with scaled needs:

- the compiled search is asked for a slightly larger factor, starting from its plan, and for half
  the increase if it fails; an answer counts with its own smallest share, which is at least that;
- linear prices prove factors impossible;
- small instances are solved exactly.

What is left over goes to the models that gain most goodput by it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from partitiond.core.plan.record import Status
from partitiond.planner.bounds.placements_lp import Pours, make_pours
from partitiond.planner.bounds.prices import (
    Duals,
    cost_bound,
    entry_prices,
    impossible,
    pours_of,
    solve_sampled,
    usual_prices,
)
from partitiond.planner.exact import Goal, Scale, solve_exact
from partitiond.planner.model.sites import Sites, build_sites, ints
from partitiond.planner.model.types import PRICE_SCALE, Instance, Need
from partitiond.planner.pack.adding import Adding, fill
from partitiond.planner.pack.assign import applied
from partitiond.planner.pack.complete import most_goodput
from partitiond.planner.pack.members import EXACT
from partitiond.planner.pack.moves import count_of_moves, price_of_a_move, with_moves
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import running_packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.search.nearest import May, least_against
from partitiond.planner.search.repair import completed
from partitiond.planner.search.searching import HOPE_SHARE
from partitiond.planner.search.searching import NAME as SEARCH
from partitiond.planner.stop import Stop

SLACK: Final = 1e-6
SAFETY: Final = 1e-9
"""Relative slack subtracted for floating-point sums: some million terms are off by less."""
LINEAR: Final = "linear prices"
NOTHING: Final = 1e-9
"""A factor so small that every model needs one replica: rates are at least one unit."""
FIRST_STEP: Final = 0.25
"""The first factor asked for is half the bound; one found is raised by this share of it. Chosen."""
FIRST, FIRST_ASKS = 1 / 16, 4
"""Before the proofs: share of a bound that is far too high, for a plan at once; asks. Chosen."""
CLOSE: Final = 0.002
"""Least step by which a factor is raised. Chosen, not measured."""
ASKS: Final = 16
"""Number of factors asked for if the clock may not count. Chosen, not measured."""
FEW: Final = 6
"""Number of factors asked for before CP-SAT is used. Chosen, not measured."""
ASK_SHARE: Final = 0.1
LAST_SHARE: Final = 0.3
"""Share of the limit for one factor, and of the time left where small steps fail. Chosen."""
SMALL_STEP: Final = 0.1
"""A step that is raised no more in a moment: from here on a factor has more time. Chosen."""
EXACT_SHARE: Final = 0.2
"""Deterministic seconds of CP-SAT per second of the limit; one takes up to three. Chosen."""
PASSES: Final = 3
"""CP-SAT cuts the factor into steps of its upper bound: it is asked again if that bound was far
from the factor found. Chosen, not measured."""
PROVEN: Final = 1e-6
"""A plan this close to the proven best is called optimal; a plan that moves less may not be."""
MET: Final = 1e-5
"""A plan this close to the bound is not improved any further."""
KEPT_BELOW: Final = (1e-6, 0.01, 0.03, 0.1)
"""Shares below the best factor at which what runs is completed: each one needs fewer moves."""


def targets_of(instance: Instance) -> dict[int, float]:
    """Return each model's rate at factor 1, in 1 / its units; only models that count are in it."""
    any_rated = any(need.rated for need in instance.needs)
    return {
        need.model: (need.planned if any_rated else need.units) * need.weight
        for need in instance.needs
        if need.rated == any_rated
    }


def scaled(instance: Instance, target: Mapping[int, float], factor: float) -> Instance:
    """Return the instance with needs of `factor` times the targets, capped at the demands."""
    needs = list[Need]()
    for need in instance.needs:
        if need.model not in target:
            needs.append(dataclasses.replace(need, survive_rate=0, survive_replicas=0))
            continue
        part = target[need.model] * factor
        # Even the smallest part of a demand takes a replica.
        rate = max(1 if part > 0 else 0, math.ceil(part * (1 - SLACK) - SLACK))
        if need.rated:
            rate = min(rate, need.rate)
        # As under max-goodput, survival of a loss is reported, not required.
        grown = dataclasses.replace(
            need,
            rate=rate,
            rated=True,
            min_replicas=max(need.min_replicas, 1 if rate else 0),
            survive_rate=0,
            survive_replicas=0,
        )
        needs.append(grown)
    return dataclasses.replace(instance, needs=tuple(needs))


def _most_counted(need: Need) -> float:
    """Return the rate beyond which a model's share no longer grows: its demand."""
    return need.planned if need.rated else math.inf


def factor_of(packing: Packing, target: Mapping[int, float]) -> float:
    """Return the smallest ratio of a model's rate to its target, by the integers."""
    shares = (
        min(packing.rates[n.model], _most_counted(n)) / target[n.model]
        for n in packing.instance.needs
        if n.model in target
    )
    return min(shares, default=0.0)


def largest_factor(watch: SolveMonitor, *, searches: bool, exact: bool) -> "Raising":
    """Return the plan with the largest factor found, and what is proven of the factor; any-time.

    Args:
        watch: the problem, with objective MAX_MIN, and the progress callback.
        searches: True uses the compiled search.
        exact: True uses CP-SAT, as the instance is small.
    """
    raising = Raising(watch, searches)
    raising.lower(raising.alone(), "each model alone")
    if raising.bound <= 0:
        raising.optimal = raising.bound == 0
        return raising
    if searches:
        # A plan comes before the linear program, which knows no stop and takes its time.
        raising.step = 1.0
        raising.ask_for_more(FIRST_ASKS, FIRST)
        raising.prove()
        raising.hopeless = watch.within(HOPE_SHARE)  # with its prices, there may be one
        raising.step = (raising.bound / raising.value - 1) / 2 if raising.value else FIRST_STEP
    most = ASKS if watch.fixed or not searches else math.inf
    raising.ask_for_more(FEW if exact else most)
    if not searches:
        raising.prove()
    if exact:
        raising.solve()
        raising.ask_for_more(most)
    return raising


def evaluate_factor(watch: SolveMonitor, packing: Packing, name: str) -> SolveAnswer:
    """Return a packing that was found by other means as the answer, with the bound of each model
    that has all devices to itself."""
    raising = Raising(watch, searches=False)
    raising.lower(raising.alone(), "each model alone")
    return SolveAnswer(
        packing=packing,
        objective=watch.objective,
        value=factor_of(packing, raising.target),
        bound=raising.bound,
        status=Status.FEASIBLE,
        method=f"{name}; bound: {raising.bound_by}",
        best_value=None,
    )


class Raising:
    """The largest factor known so far, and its bound.

    Attributes:
        best: the plan with the best factor; None if none was found at any factor above 0, for
            example because not every model can have a replica beside the others.
        value: the factor of that plan.
        bound: upper bound on the factor; below 0 if a least number of replicas cannot be met.
    """

    def __init__(self, watch: SolveMonitor, searches: bool) -> None:
        self.watch, self.instance, self.searches = watch, watch.instance, searches
        instance = watch.instance
        self.sites, self.target = build_sites(instance), targets_of(instance)
        self.worth = usual_prices(self.sites)
        self.bound, self.bound_by = math.inf, ""
        self.best: Packing | None = None
        self.value, self.name = 0.0, "none"
        self.optimal, self.step, self.asked = False, FIRST_STEP, 0
        self.limit, self.stop = instance.request.time_limit_seconds, watch.stop
        self.hopeless = watch.within(HOPE_SHARE)

    def met(self) -> bool:
        """Whether the best factor is proven the largest, even if no factor above 0 was found."""
        return self.optimal or (self.best is not None and self.value >= self.bound * (1 - MET))

    def done(self) -> bool:
        """Return whether the bound is reached or below 0, or the time is over."""
        return self.met() or self.bound < 0 or self.watch.left() <= 0

    def lower(self, bound: float, name: str) -> None:
        """Record that no plan has a factor larger than `bound`."""
        if bound < self.bound:
            self.bound, self.bound_by = bound, name
            self.watch.proved(bound)

    def keep(self, packing: Packing, name: str) -> bool:
        """Keep a packing if it is the best so far; return whether it is."""
        mine = packing.copy()
        mine.instance = self.instance
        mine.settle()
        value = factor_of(mine, self.target)
        if value <= self.value * (1 + SLACK) or mine.short_replicas():
            return False
        self.best, self.value, self.name = mine, value, name
        self.watch.record_best(value, name)
        return True

    def alone(self) -> float:
        """Bound the factor by the model that gets least if each model has every device to itself;
        below 0 if a least number of replicas is beyond the largest number."""
        sites, needs = self.sites, self.instance.needs
        if any(need.max_replicas < need.min_replicas for need in needs):
            return -1.0
        count = np.bincount(
            sites.class_of, sites.group_count, int(sites.class_of.max(initial=-1)) + 1
        )
        most, largest = np.zeros((len(needs), len(count))), np.zeros(len(needs))
        full = sites.rates[:, 0].astype(np.float64) * sites.max_items[sites.entry_site]
        np.maximum.at(most, (sites.entry_model, sites.site_class[sites.entry_site]), full)
        np.maximum.at(largest, sites.entry_model, sites.rates[:, 0])
        rate = np.minimum(most @ count, largest * [need.max_replicas for need in needs])
        shares = [
            min(rate[m], _most_counted(n)) / self.target[n.model]
            for m, n in enumerate(needs)
            if n.model in self.target
        ]
        return float(min(shares, default=0.0)) * (1 + SAFETY)

    def ask_for_more(self, most: float, first: float = 0.5) -> None:
        """Ask for increasing factors, at most `most` times; first for a share of the bound."""
        asked, small = 0, first * self.bound
        while asked < most and not (self.done() or (self.best is None and self.hopeless())):
            factor = small if self.best is None else self.value * (1 + self.step)
            if not self._ask(min(factor, self.bound)):
                small /= 2
                if self.best is not None:
                    self.step = max(CLOSE, self.step / 2)
            asked += 1

    def _ask(self, factor: float) -> bool:
        """Search for a plan with at least this factor, starting from the best so far."""
        asked = scaled(self.instance, self.target, factor)
        self.asked += 1
        left = self.watch.left()
        late = LAST_SHARE * left if self.step < SMALL_STEP else 0.0
        seed = self.instance.request.seed + self.asked
        improver = Improver(self._sites_for(asked), self.worth, by_cost=True, seed=seed)
        improver.start(self.best)
        seconds = min(left, max(ASK_SHARE * self.limit, late)) if self.searches else 0.0
        improver.run(seconds, halt=lambda: improver.has_answer or self.stop())
        return improver.has_answer and self.keep(improver.best(), SEARCH)

    @functools.cached_property
    def priced(self) -> tuple[Pours, Duals]:
        """Return the prices at which the largest part of the demands at the bound can be served."""
        asked = self._sites_for(scaled(self.instance, self.target, self.bound))
        pours = dataclasses.replace(make_pours(self.sites), sites=asked)
        found = solve_sampled(pours, as_cost=True, most=pours_of(self.limit), part=True)
        self.worth = entry_prices(pours, found)
        return pours, found

    def _sites_for(self, asked: Instance) -> Sites:
        """Return the arrays with other needs, without making all arrays anew."""
        return dataclasses.replace(
            self.sites,
            instance=asked,
            need_rate=ints([n.rate for n in asked.needs]),
            need_min=ints([n.min_replicas for n in asked.needs]),
            need_rated=np.array([n.rated for n in asked.needs], dtype=np.uint8),
        )

    def prove(self) -> None:
        """Lower the bound by factors at which the devices cannot hold the cheapest covers."""
        if self.best is None and not self.done():
            if self._cannot_serve(0.0):
                self.lower(-1.0, LINEAR)  # least numbers cannot be met together
            elif self._cannot_serve(NOTHING):
                self.lower(0.0, LINEAR)
                self.optimal = True
        low = self.value
        # All proofs use the same prices, so the distance can be halved.
        while not self.done() and low * (1 + CLOSE) < self.bound:
            asked = (low + self.bound) / 2
            if self._cannot_serve(asked):
                self.lower(asked, LINEAR)
            else:
                low = asked

    def _cannot_serve(self, factor: float) -> bool:
        """Return whether it is proven that no plan has a factor this large."""
        sites = self._sites_for(scaled(self.instance, self.target, factor))
        pours, duals = self.priced
        pours = dataclasses.replace(pours, sites=sites)
        least = math.inf if impossible(sites) else cost_bound(pours, duals)
        # A bound beyond the cost of all devices together is a proof as well.
        most = math.fsum(g.price * len(g.bins) for g in self.instance.groups) / PRICE_SCALE
        return math.isinf(least) or 0 < most < (least - SLACK) / (1 + SLACK)

    def solve(self) -> None:
        """Solve with CP-SAT, starting from the best plan so far."""
        for _ in range(PASSES):
            if self.done():
                return
            found = solve_exact(
                self.instance,
                Goal.SCALE,
                list(range(len(self.instance.group_of))),
                self.best,
                deterministic_seconds=EXACT_SHARE * self.limit,
                scale=Scale(self.target, self.bound),
                wall_seconds=math.inf if self.watch.fixed else self.watch.left(),
                stop=self.stop,
            )
            if found.packing is None or found.bound is None:
                if found.status is Status.INFEASIBLE and self.best is None:
                    self.lower(-1.0, EXACT)  # least numbers cannot be met together
                return
            self.keep(found.packing, EXACT)
            self.lower(found.bound, EXACT)
            proven = found.status is Status.OPTIMAL
            if not proven or self.bound <= self.value * (1 + PROVEN):
                break
        self.optimal = proven

    def answer(self, best: Packing, may: May) -> SolveAnswer:
        """Return the best plan, or one as good that moves less, with spare capacity shared out."""
        chosen = self._near(best, may)
        value = factor_of(chosen, self.target)
        most = max(value, self.value)
        optimal = self.met() and value >= most * (1 - PROVEN)
        return SolveAnswer(
            packing=chosen,
            objective=self.instance.request.objective,
            value=value,
            bound=self.bound,
            status=Status.OPTIMAL if optimal else Status.FEASIBLE,
            method=f"{self.name}; bound: {self.bound_by}",
            best_value=most,
        )

    def _near(self, best: Packing, may: May) -> Packing:
        """Return the plan with the best value after the price of moves: the best or a kept plan."""
        instance, objective = self.instance, self.instance.request.objective
        tried = [best, *self._kept()] if instance.request.running else [best]
        price = price_of_a_move(instance.request, objective)
        ranks: list[tuple[float, int, Packing]] = []
        for packing in tried:
            if ranks and self.stop():
                break
            full = self.given_away(packing, self.watch.finish(1 / (len(tried) - len(ranks))))
            value = factor_of(full, self.target)
            done = applied(instance, full)
            worth = with_moves(objective, value, count_of_moves(instance, done), price)
            ranks.append((worth, done.load_bytes, full))
        most = max(rank[0] for rank in ranks)
        close = most - SLACK * abs(most)
        ranks.sort(key=lambda rank: (-most if rank[0] >= close else -rank[0], rank[1]))
        return ranks[least_against([rank[2] for rank in ranks], may)][2]

    def _kept(self) -> Iterator[Packing]:
        """Yield the running replicas as they are, and completed to factors near the best."""
        as_it_is = running_packing(self.instance)
        if not as_it_is.short_replicas():
            yield as_it_is
        for less in KEPT_BELOW:
            near = scaled(self.instance, self.target, self.value * (1 - less))
            kept = completed(near, usual_prices(self.sites), by_cost=True, stop=self.stop)
            if not kept.lacking():
                kept.instance = self.instance
                yield kept

    def given_away(self, packing: Packing, stop: Stop) -> Packing:
        """Give what is left over to models that gain goodput; no model falls below the factor."""
        instance = self.instance
        value, grown = factor_of(packing, self.target), packing.copy()
        grown.instance = instance
        adding = Adding(grown, usual_prices(self.sites))
        most_goodput(adding, instance.needs, stop)
        if any(not need.rated for need in instance.needs):
            # Needs are held to the factor and to what each model has of its demand, so no device
            # goes to a level at which a model falls below these.
            rated = any(need.rated for need in instance.needs)
            held = scaled(instance, self.target, value) if rated else instance
            needs = (
                dataclasses.replace(h, rate=max(h.rate, min(n.rate, grown.rates[n.model])))
                for h, n in zip(held.needs, instance.needs, strict=True)
            )
            grown.instance = dataclasses.replace(held, needs=tuple(needs))
            fill(grown, range(len(grown.loads)), stop)
            grown.instance = instance
        grown.settle()
        return grown if factor_of(grown, self.target) >= value * (1 - SLACK) else packing
