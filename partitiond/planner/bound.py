"""The weighted-resource bound: prices such that no device is worth more than it costs.

For each kind of device g and way k to run it, let pi[g, k, r] be prices on its resources r
(memory, SM percent, load, count, cores) with

    sum over r of pi[g, k, r] * capacity[g, k, r] <= price[g] + mu[g]

Then whatever a device holds is worth at most price[g] + mu[g], and covering every model's demand
at these prices costs in sum at most what the devices cost plus the sum of mu[g] * count[g]: a
bound that no plan can beat. The best prices are the duals of the linear relaxation in which all
devices of one kind are poured together; given the prices, each model's cheapest covering set is
found over whole replicas, which is stronger than the relaxation. The bound holds for any prices,
so a solver's rounding cannot make it wrong: prices are scaled until the inequality holds.

Load is linear by kappa: (sum u)(1 + kappa (n - 1)) <= L and 1 + kappa (n - 1) <= L together imply
sum (u + kappa) <= L + kappa.
"""

import dataclasses
import math
from typing import Any, Final

from ortools.linear_solver.python import model_builder

from partitiond.planner.instance import (
    PRICE_SCALE,
    RATE_SCALE,
    SHARE_SCALE,
    Group,
    Instance,
    Need,
    Option,
)

RESOURCES: Final = ("memory", "sm", "load", "count", "cores")
GRID: Final = 400
"""Steps into which a demand is cut when its cheapest covering set is sought."""
SAFETY: Final = 1e-6
"""Relative slack given away for floating-point sums."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One way to place one replica of a model: item, kind of device, way to run it."""

    model: int
    item: int
    group: int
    option: int
    rate: int
    use: tuple[float, ...]
    """Share of one device's capacity, by resource."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """What the relaxation says.

    Attributes:
        value: no plan is better: cost of devices, or weighted requests/s. None: it is proven
            that the devices cannot serve everything.
        prices: worth of all of one device's resource r, by (group, option).
        entries: ways to place a replica, by model.
        used: devices of each (group, option) in the relaxation.
    """

    value: float | None
    prices: dict[tuple[int, int], tuple[float, ...]]
    entries: dict[int, tuple[Entry, ...]]
    used: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)

    def worth(self, entry: Entry) -> float:
        """What a replica takes at these prices, in devices' cost."""
        prices = self.prices[entry.group, entry.option]
        return sum(price * use for price, use in zip(prices, entry.use, strict=True))


def capacities(instance: Instance, group: Group, option: Option) -> tuple[int, ...]:
    """Capacity of one device, by resource; 0 where it does not limit."""
    kappa = option.kappa
    load = math.ceil(option.level * SHARE_SCALE) + kappa if option.mode is not None else 0
    return (instance.memory(group, option), 100, load, option.max_items, group.cores)


def make_entries(instance: Instance) -> dict[int, tuple[Entry, ...]]:
    """All ways to place one replica, by model, without the dominated ones."""
    found: dict[int, list[Entry]] = {need.model: [] for need in instance.needs}
    for group in instance.groups:
        for k, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
            limits = capacities(instance, group, option)
            for index in fit:
                item = instance.items[index]
                amounts = (item.memory_mib, item.sm, item.busy + option.kappa, 1, item.cores)
                use = tuple(a / c if c else 0.0 for a, c in zip(amounts, limits, strict=True))
                rate = instance.rate(index, option)
                found[item.model].append(Entry(item.model, index, group.index, k, rate, use))
    return {model: tuple(entries) for model, entries in found.items()}


def bound_cost(instance: Instance) -> Bound:
    """The least cost of devices that serve everything."""
    entries = make_entries(instance)
    relaxation = _Relaxation(instance, entries)
    for need in instance.needs:
        relaxation.cover(need)
    relaxation.minimise_cost()
    if not relaxation.solve():
        return Bound(None, _flat_prices(instance), entries)
    prices, mu = relaxation.prices()
    value = max(relaxation.value, _covering_value(instance, entries, prices, mu))
    return Bound(_round_up(instance, value), prices, entries, relaxation.devices_used())


def bound_goodput(instance: Instance) -> Bound:
    """The most weighted requests/s that the devices can give."""
    entries = make_entries(instance)
    relaxation = _Relaxation(instance, entries)
    rated = any(n.rated for n in instance.needs)
    for need in instance.needs:
        if need.rated == rated:
            relaxation.serve(need)
    relaxation.maximise_served()
    if not relaxation.solve():
        return Bound(None, _flat_prices(instance), entries)
    prices, _ = relaxation.prices()
    value = relaxation.value * (1 + SAFETY)
    return Bound(value, prices, entries, relaxation.devices_used())


def _flat_prices(instance: Instance) -> dict[tuple[int, int], tuple[float, ...]]:
    """Every resource worth the same, where the relaxation gives no prices."""
    each = 1.0 / len(RESOURCES)
    return {
        (g.index, k): tuple([each * g.price / PRICE_SCALE] * len(RESOURCES))
        for g in instance.groups
        for k in range(len(g.options))
    }


class _Relaxation:
    """The linear relaxation with all devices of one kind poured together."""

    def __init__(self, instance: Instance, entries: dict[int, tuple[Entry, ...]]) -> None:
        self.instance, self.entries = instance, entries
        self.model = model_builder.Model()
        self.amount: dict[tuple[int, int, int], Any] = {}
        self.used: dict[tuple[int, int], Any] = {}
        self.rows: dict[tuple[int, int, int], Any] = {}
        self.counts: dict[int, Any] = {}
        self.served: list[tuple[float, Any]] = []
        self.value = 0.0
        for need in instance.needs:
            for e in entries[need.model]:
                self.amount[e.item, e.group, e.option] = self.model.new_num_var(0, math.inf, "")
        self._devices()
        for need in instance.needs:
            mine = [self._x(e) for e in entries[need.model]]
            if need.max_replicas < 1_000_000:
                self.model.add(sum(mine) <= need.max_replicas)

    def _x(self, e: Entry) -> Any:
        return self.amount[e.item, e.group, e.option]

    def _devices(self) -> None:
        by_place: dict[tuple[int, int], list[Entry]] = {}
        for entry in (e for mine in self.entries.values() for e in mine):
            by_place.setdefault((entry.group, entry.option), []).append(entry)
        for place, mine in by_place.items():
            devices = self.used[place] = self.model.new_num_var(0, math.inf, "")
            for r in range(len(RESOURCES)):
                terms = [e.use[r] * self._x(e) for e in mine if e.use[r] > 0]
                if terms:
                    self.rows[*place, r] = self.model.add(sum(terms) <= devices)
        for group in self.instance.groups:
            ways = [v for (g, _), v in self.used.items() if g == group.index]
            if ways:
                self.counts[group.index] = self.model.add(sum(ways) <= len(group.bins))

    def cover(self, need: Need) -> None:
        """All of a model's demand; rates beyond the demand count as the demand."""
        mine = self.entries[need.model]
        self.model.add(sum(self._x(e) for e in mine) >= need.min_replicas)
        if need.rate:
            share = [min(e.rate, need.rate) / need.rate * self._x(e) for e in mine]
            self.model.add(sum(share) >= 1.0)

    def serve(self, need: Need) -> None:
        """A variable for the served part of a model's demand."""
        most = need.rate / RATE_SCALE if need.rated else math.inf
        served = self.model.new_num_var(0, most, "")
        rates = [e.rate / RATE_SCALE * self._x(e) for e in self.entries[need.model]]
        self.model.add(served <= sum(rates))
        self.served.append((need.weight, served))

    def minimise_cost(self) -> None:
        """Objective: price of the devices used."""
        groups = self.instance.groups
        self.model.minimize(
            sum(groups[g].price / PRICE_SCALE * y for (g, _), y in self.used.items())
        )

    def maximise_served(self) -> None:
        """Objective: weighted requests/s."""
        self.model.maximize(sum(weight * served for weight, served in self.served))

    def solve(self) -> bool:
        """False where it is infeasible."""
        solver = model_builder.Solver("GLOP")
        self.status = solver.solve(self.model)
        if self.status != model_builder.SolveStatus.OPTIMAL:
            return False
        self.solver, self.value = solver, solver.objective_value
        return True

    def devices_used(self) -> dict[tuple[int, int], float]:
        """Devices of each kind run each way."""
        return {place: self.solver.value(y) for place, y in self.used.items()}

    def prices(self) -> tuple[dict[tuple[int, int], tuple[float, ...]], list[float]]:
        """Worth of one device's resources by (group, option), and mu by group."""
        mu = [0.0] * len(self.instance.groups)
        for group, row in self.counts.items():
            mu[group] = abs(self.solver.dual_value(row))
        found = {}
        for place in self.used:
            rows = [self.rows.get((*place, r)) for r in range(len(RESOURCES))]
            found[place] = tuple(
                0.0 if row is None else abs(self.solver.dual_value(row)) for row in rows
            )
        return found, mu


def _covering_value(
    instance: Instance,
    entries: dict[int, tuple[Entry, ...]],
    prices: dict[tuple[int, int], tuple[float, ...]],
    mu: list[float],
) -> float:
    """Sum of each model's cheapest covering set at the prices, less mu of all devices."""
    groups = instance.groups
    excess = 1.0
    for (group, _), place in prices.items():
        worth = groups[group].price / PRICE_SCALE + mu[group]
        if worth > 0:
            excess = max(excess, sum(place) / worth)
    total = -math.fsum(m * len(g.bins) for m, g in zip(mu, groups, strict=True))
    for need in instance.needs:
        ways = [
            (
                math.fsum(p * u for p, u in zip(prices[e.group, e.option], e.use, strict=True)),
                e.rate,
            )
            for e in entries[need.model]
        ]
        total += cheapest_cover(ways, need.rate, need.min_replicas) / excess
    return total


def cheapest_cover(ways: list[tuple[float, int]], rate: int, replicas: int) -> float:
    """Least price of whole replicas that cover `rate` and count at least `replicas`.

    A lower bound: rates are rounded up to the demand's grid, and the larger of the two
    conditions is taken.
    """
    cheapest = min(price for price, _ in ways)
    if rate == 0:
        return replicas * cheapest
    step = max(1, rate // GRID)
    cells = -(-rate // step)
    best_of: dict[int, float] = {}
    for price, each in ways:
        cell = min(cells, -(-each // step))
        if cell > 0:
            best_of[cell] = min(price, best_of.get(cell, math.inf))
    if not best_of:
        return 0.0
    pruned: list[tuple[int, float]] = []
    for cell, price in sorted(best_of.items(), reverse=True):
        if not pruned or price < pruned[-1][1]:
            pruned.append((cell, price))
    least = [0.0] * (cells + 1)
    for amount in range(1, cells + 1):
        least[amount] = min(price + least[max(0, amount - cell)] for cell, price in pruned)
    return max(least[cells], replicas * cheapest)


def _round_up(instance: Instance, value: float) -> float:
    """Up to the next cost a plan can have, where all prices are multiples of one number."""
    step = math.gcd(*(g.price for g in instance.groups)) / PRICE_SCALE
    if step <= 0:
        return value
    return math.ceil(value / step - SAFETY * max(1.0, value / step)) * step
