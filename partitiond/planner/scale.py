"""The largest common factor: how far all demands can be served alike, or grow.

`max-min` and `max-headroom` ask for the largest factor t at which every model gets t times its
target: under `max-headroom` its demand, under `max-min` its demand times its weight, and never
more than its demand. (Where no model has a rate, 1 request/s takes the demand's place.) What of a
demand has to survive a loss grows with it under `max-headroom`; under `max-min` it is reported
only. At a given factor this is the question of the cost objectives, "is there a plan that serves
everything", without the cost. So everything that answers that is used as it is, on an instance
whose needs are scaled:

- the linear relaxation has the factor as a variable: one solve bounds it;
- greedy packers and whatever else the portfolio has are asked at some factors, each answer being
  good for its own smallest share, which is at least the factor asked for;
- the weighted-resource bound, with its whole replicas, proves further factors impossible;
- small instances are solved exactly.

What is left goes to the models that gain most goodput by it.
"""

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from partitiond.core.plan import Objective, Status
from partitiond.planner.assign import applied
from partitiond.planner.bound import bound_cost, bound_goodput
from partitiond.planner.covers import pack_covers
from partitiond.planner.exact import MAX_VARIABLES, Goal, Scale, solve_exact, variable_count
from partitiond.planner.greedy import Guide, Strategy, first_fit, most_goodput, serve_all
from partitiond.planner.instance import PRICE_SCALE, Instance, Need
from partitiond.planner.moves import with_price
from partitiond.planner.nearest import May, anything, first_that_may
from partitiond.planner.packing import Packing
from partitiond.planner.repair import repair_start
from partitiond.planner.rules import rate_if_lost
from partitiond.planner.running import running_packing, staying_items
from partitiond.planner.scale_bound import relaxed_factor
from partitiond.planner.share import fill

Serve = Callable[[Instance, float], Packing | None]
"""A plan that serves every need of an instance, or None: (instance, seconds it may take)."""

SLACK: Final = 1e-6
NOTHING: Final = 1e-9
"""A factor that is 0 but for the linear solver's rounding."""
CLOSE: Final = 0.002
"""A factor this close to the least one that failed is not improved any further."""
PROBES: Final = (1.0, 0.97, 0.93, 0.87, 0.75, 0.6, 0.4, 0.2, 0.05, 0.01)
"""Factors asked for, of the bound, until one is met."""
HALVINGS: Final = 7
PROOFS: Final = 6
EXACT_SHARE: Final = 0.2
"""Deterministic seconds of CP-SAT per second of the time limit; one takes up to three seconds."""
REST_SHARE: Final = 0.1
"""Share of the time limit that is kept for giving away what is left."""
PROVEN: Final = 1e-6
"""A plan this close to the proven best is called optimal; one that moves less may not be."""
KEPT_BELOW: Final = (1e-6, 0.01, 0.03, 0.1)
"""Shares of the best factor below which what runs is repaired: with fewer moves each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scaled:
    """The best common factor that was found.

    Attributes:
        packing: the plan; None where none was found at any factor above 0, as where not every
            model can have a replica beside the others: `optimal` says whether that is proven.
        value: its factor.
        bound: no plan has a larger one; below 0 where a least number of replicas cannot be met.
        best: the best factor of any plan found; the plan may give some of it away to move less.
        method: what gave the plan, and what the bound.
        optimal: the best factor is proven to be the largest.
        first_fit: the factor of first-fit decreasing; None where it was not asked.
    """

    packing: Packing | None
    value: float
    bound: float
    best: float
    method: str
    optimal: bool = False
    first_fit: float | None = None


def targets_of(instance: Instance) -> dict[int, float]:
    """Rate of each model at factor 1, in 1 / its units; models that do not count are not in it."""
    any_rated = any(need.rated for need in instance.needs)
    weighted = instance.request.objective is Objective.MAX_MIN
    return {
        need.model: _target(need) * (need.weight if weighted else 1.0)
        for need in instance.needs
        if need.rated == any_rated
    }


def _target(need: Need) -> float:
    return need.planned if need.rated else float(need.units)


def scaled(instance: Instance, target: Mapping[int, float], factor: float) -> Instance:
    """The same with needs of so many times the targets; under MAX_MIN at most the demand."""
    needs = tuple(
        _scaled_need(need, target[need.model], factor, instance.request.objective)
        if need.model in target
        else need
        for need in instance.needs
    )
    return dataclasses.replace(instance, needs=needs)


def _scaled_need(need: Need, target: float, factor: float, objective: Objective) -> Need:
    # However little a part is, it takes a replica.
    least = 1 if target * factor > 0 else 0
    rate = max(least, math.ceil(target * factor * (1 - SLACK) - SLACK))
    if objective is Objective.MAX_MIN and need.rated:
        rate = min(rate, need.rate)
    least = max(need.min_replicas, 1 if rate else 0)
    # Under max-min, what survives a loss is reported, as under max-goodput, and not asked for.
    grows = objective is Objective.MAX_HEADROOM
    survive = math.ceil(need.survive_rate * factor * (1 - SLACK) - SLACK) if grows else 0
    return dataclasses.replace(
        need,
        rate=rate,
        rated=True,
        min_replicas=least,
        survive_rate=survive,
        survive_replicas=0,
    )


def factor_of(packing: Packing, target: Mapping[int, float]) -> float:
    """The smallest of the models' rates over their targets, by the integers.

    Under max-headroom, so are the rates that are left without any one fault domain, over what of
    the demand has to be left.
    """
    instance = packing.instance
    survive = instance.request.objective is Objective.MAX_HEADROOM
    left = [
        rate_if_lost(packing, n) / n.survive_rate
        for n in instance.needs
        if survive and n.model in target and n.survive_rate
    ]
    capped = instance.request.objective is Objective.MAX_MIN
    rates = {
        n.model: min(packing.rates[n.model], n.planned)
        if capped and n.rated
        else packing.rates[n.model]
        for n in instance.needs
        if n.model in target
    }
    shares = [rate / target[model] for model, rate in rates.items()]
    return min([*shares, *left], default=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """What is asked for bounds and plans.

    Attributes:
        serve: finds plans that serve everything.
        relaxed: a bound on the factor; below 0 where least numbers of replicas cannot be met.
        repaired: what runs, with what is missing at an instance's needs.
        rest: gives what a plan leaves to whoever gains goodput by it; (instance, target, packing,
            seconds it may take, stop).
        weighted: the weighted-resource bound and its packers are asked as well.
    """

    serve: Serve
    relaxed: Callable[[Instance, Mapping[int, float]], float]
    repaired: Callable[[Instance], Packing]
    rest: Callable[[Instance, Mapping[int, float], Packing, float, Callable[[], bool]], Packing]
    weighted: bool = True


def usual_means(serve: Serve | None = None) -> Means:
    """Of fleets whose places can be listed; `serve` is the greedy packers' unless given."""
    return Means(serve or greedy_serve, relaxed_factor, repair_start, spread_rest)


def largest_factor(
    instance: Instance,
    means: Means,
    *,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[float, str], object] = lambda _value, _name: None,
    proved: Callable[[float], object] = lambda _bound: None,
    may: May = anything,
) -> Scaled:
    """The best plan by factor, then goodput, then what it has to load; any-time.

    Args:
        instance: the question, with objective MAX_MIN or MAX_HEADROOM.
        means: what is asked.
        stop: asked now and then whether to end with the best so far.
        tell: told of each better factor, and of what found it.
        proved: told of each lower bound on the factor.
        may: what speaks against a packing: of those with least, the best is taken.
    """
    target = targets_of(instance)
    search = _Search(instance, target, means, (stop, tell, proved))
    search.may = may
    relaxed = means.relaxed(instance, target)
    if relaxed < 0:
        return Scaled(None, 0.0, -1.0, 0.0, "none; bound: relaxation")
    if relaxed <= NOTHING:
        return Scaled(None, 0.0, 0.0, 0.0, "none; bound: relaxation", optimal=True)
    search.lower(relaxed, "relaxation")
    search.probe()
    search.halve()
    search.solve_small()
    if means.weighted:
        search.prove()
        search.try_baselines()
    return search.answer()


Watchers = tuple[Callable[[], bool], Callable[[float, str], object], Callable[[float], object]]
"""Whether to end; told of a better factor; told of a lower bound."""


class _Search:
    """What is known of the largest factor so far."""

    def __init__(
        self, instance: Instance, target: Mapping[int, float], means: Means, watchers: Watchers
    ) -> None:
        self.instance, self.target, self.means = instance, target, means
        self.stop, self.tell, self.proved = watchers
        self.first_fit: float | None = None
        self.bound, self.bound_by = math.inf, "relaxation"
        self.best: Packing | None = None
        self.value, self.name = 0.0, "greedy"
        self.failed = math.inf
        self.optimal = False
        self.may: May = anything
        self.limit = instance.request.time_limit_seconds
        self.end = time.monotonic() + 0.9 * self.limit

    def late(self, share: float = 1.0) -> bool:
        """Whether to end, or a share of the time has gone where the answer may depend on that."""
        if self.stop():
            return True
        left = self.end - time.monotonic()
        return not self.instance.request.deterministic and left < (1 - share) * 0.9 * self.limit

    def left(self, more: float = 0.0) -> float:
        """Seconds that a solver may take, and a share of the limit more; without a clock any."""
        if self.instance.request.deterministic:
            return math.inf
        return max(0.0, self.end + more * self.limit - time.monotonic())

    def done(self) -> bool:
        """Whether the bound is reached."""
        return self.best is not None and self.value >= self.bound * (1 - 1e-5)

    def lower(self, bound: float, name: str) -> None:
        """No plan has a larger factor."""
        if bound < self.bound:
            self.bound, self.bound_by = bound, name
            self.proved(bound)

    def ask(self, factor: float) -> bool:
        """Look for a plan with at least this factor."""
        found = self.means.serve(scaled(self.instance, self.target, factor), self.limit / 10)
        if found is None:
            self.failed = min(self.failed, factor)
            return False
        self.keep(found, "greedy")
        return True

    def keep(self, packing: Packing, name: str) -> None:
        """Take a packing if it is the best so far."""
        mine = packing.copy()
        mine.instance = self.instance
        mine.settle()
        value = factor_of(mine, self.target)
        if value > self.value * (1 + SLACK) and not mine.short_replicas():
            self.best, self.value, self.name = mine, value, name
            self.tell(value, name)

    def probe(self) -> None:
        """From the bound down until a plan is found."""
        for share in PROBES:
            if self.stop() or self.ask(self.bound * share) or (self.late() and self.best):
                return

    def halve(self) -> None:
        """Between what was found and what failed."""
        for _ in range(HALVINGS):
            high = min(self.failed, self.bound)
            if self.best is None or high <= self.value * (1 + CLOSE) or self.late(0.5):
                return
            self.ask((self.value + high) / 2)

    def solve_small(self) -> None:
        """Exactly, where the instance is small."""
        devices = list(range(len(self.instance.group_of)))
        if self.done() or self.late() or variable_count(self.instance, devices) > MAX_VARIABLES:
            return
        grows = self.instance.request.objective is Objective.MAX_HEADROOM
        survive = {n.model: float(n.survive_rate) for n in self.instance.needs if grows}
        exact = solve_exact(
            self.instance,
            Goal.SCALE,
            devices,
            self.best,
            deterministic_seconds=EXACT_SHARE * self.limit,
            scale=Scale(self.target, self.bound, survive),
            wall_seconds=self.left(),
            stop=self.stop,
        )
        if exact.packing is None:
            if exact.status is Status.INFEASIBLE and self.best is None:
                self.lower(-1.0, "exact (CP-SAT)")  # least numbers cannot be met together
            return
        self.keep(exact.packing, "exact (CP-SAT)")
        if exact.bound is not None:
            self.lower(exact.bound, "exact (CP-SAT)")
        self.optimal = exact.status.value == "optimal"

    def prove(self) -> None:
        """Lower the bound: factors at which the devices cannot hold the cheapest covers."""
        low = self.value
        for _ in range(PROOFS):
            if self.optimal or self.done() or self.late(0.9) or self.bound <= low * (1 + CLOSE):
                return
            middle = (low + self.bound) / 2
            if cannot_serve(scaled(self.instance, self.target, middle)):
                self.lower(middle, "weighted resources")
            else:
                low = middle

    def try_baselines(self) -> None:
        """First-fit and best-fit, so that no plan is worse than they are."""
        if self.stop() or (self.best is not None and self.late()):
            return
        entries = bound_goodput(self.instance).entries
        near = scaled(self.instance, self.target, self.value or self.bound)
        for best, name in ((False, "first-fit decreasing"), (True, "best-fit decreasing")):
            packing = first_fit(near, entries, best=best)
            if not best:
                self.first_fit = factor_of(packing, self.target)
            self.keep(packing, name)

    def answer(self) -> Scaled:
        """The best, or one as good that moves less, with what is left given away."""
        method = f"{self.name}; bound: {self.bound_by}"
        bound = self.bound
        if self.best is None:
            bound = 0.0 if self.optimal else self.bound
            return Scaled(None, 0.0, bound, 0.0, method, self.optimal)
        chosen = self._near()
        value = factor_of(chosen, self.target)
        best = max(value, self.value)
        optimal = (self.optimal or self.done()) and value >= best * (1 - PROVEN)
        return Scaled(chosen, value, bound, best, method, optimal, self.first_fit)

    def _near(self) -> Packing:
        """The best with the price of its moves, of this one and of repairs of what runs."""
        instance = self.instance
        assert self.best is not None, "something was found"
        tried = [self.best, *self._kept()] if instance.request.running else [self.best]
        ranks: list[tuple[float, int, Packing]] = []
        for packing in tried:
            if ranks and self.stop():
                break
            seconds = self.left(REST_SHARE) / len(tried)
            full = self.means.rest(instance, self.target, packing, seconds, self.stop)
            value = factor_of(full, self.target)
            done = applied(instance, full)
            worth = with_price(instance, instance.request.objective, value, done)
            ranks.append((worth, done.load_bytes, full))
        most = max(rank[0] for rank in ranks)
        close = most - SLACK * abs(most)
        ranks.sort(key=lambda rank: (-most if rank[0] >= close else -rank[0], rank[1]))
        return ranks[first_that_may([full for _, _, full in ranks], self.may)][2]

    def _kept(self) -> Iterator[Packing]:
        """What runs as it is, and repaired to factors near the best."""
        as_it_is = running_packing(self.instance, staying_items(self.instance))
        if not as_it_is.short_replicas():
            yield as_it_is
        for less in KEPT_BELOW:
            kept = self.means.repaired(scaled(self.instance, self.target, self.value * (1 - less)))
            if not kept.lacking():
                kept.instance = self.instance
                yield kept


def greedy_serve(instance: Instance, seconds: float) -> Packing | None:
    """The first plan that greedy packers find which serves everything; None where none does."""
    del seconds  # a few starts: bounded by the instance's size
    bound = bound_cost(instance)
    if bound.value is None:
        return None
    guide = Guide(instance, bound)
    for number in range(3):
        rng = random.Random(f"{instance.request.seed}-{number}")  # noqa: S311
        noise = 0.15 * number
        packing = pack_covers(instance, guide, places=None, noise=noise, rng=rng)
        if packing is None:
            strategy = Strategy(0.0, 2 * noise)
            packing = serve_all(instance, guide, Packing(instance), strategy, rng)
        if packing is not None:
            return packing
    return None


def cannot_serve(instance: Instance) -> bool:
    """Whether the weighted-resource bound proves that the devices cannot serve everything."""
    bound = bound_cost(instance)
    there = math.fsum(g.price * len(g.bins) for g in instance.groups)
    if bound.value is None:
        return True
    # A bound beyond what all devices cost together is a proof as well.
    most = there / PRICE_SCALE
    return most > 0 and bound.value > most * (1 + SLACK) + SLACK


def spread_rest(
    instance: Instance,
    target: Mapping[int, float],
    packing: Packing,
    seconds: float,
    stop: Callable[[], bool],
) -> Packing:
    """Give what is left to whoever gains goodput by it; nobody falls below the factor."""
    if stop():
        return packing
    value = factor_of(packing, target)
    floor = scaled(instance, target, value)
    guide = Guide(instance, bound_goodput(instance))
    grown = packing.copy()
    grown.instance = instance
    if any(grown.rates[n.model] < n.rate for n in instance.needs if n.rated):
        rng = random.Random(instance.request.seed)  # noqa: S311
        grown = most_goodput(instance, guide, grown, Strategy(0.0, 0.0), rng)
        if grown.short_replicas():  # rules that go beyond one device may cost somebody a replica
            grown = packing.copy()
            grown.instance = instance
        grown = _exact_rest(instance, floor, grown, seconds, stop) or grown
    if any(not need.rated for need in instance.needs):
        # Held to the factor: no device goes to a level at which somebody falls below it.
        grown.instance = floor if any(n.rated for n in instance.needs) else instance
        fill(grown, guide, range(len(grown.loads)))
    grown.instance = instance
    grown.settle()
    return grown if factor_of(grown, target) >= value * (1 - SLACK) else packing


def _exact_rest(
    instance: Instance, floor: Instance, hint: Packing, seconds: float, stop: Callable[[], bool]
) -> Packing | None:
    devices = list(range(len(instance.group_of)))
    if stop() or seconds <= 0 or variable_count(instance, devices) > MAX_VARIABLES:
        return None
    found = solve_exact(
        instance,
        Goal.GOODPUT,
        devices,
        hint,
        deterministic_seconds=EXACT_SHARE / 2 * instance.request.time_limit_seconds,
        floors={n.model: n.rate for n in floor.needs if n.rate},
        wall_seconds=seconds,
        stop=stop,
    )
    if found.packing is None or found.packing.short_replicas() > hint.short_replicas():
        return None
    return found.packing if found.packing.goodput() > hint.goodput() * (1 + SLACK) else None
