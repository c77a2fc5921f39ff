"""The weighted-resource bound: prices such that no device is worth more than it costs.

For each kind of device g and way k to run it, let pi[g, k, r] be prices on its resources r
(memory, SM percent, cores, MIG slices, load, number). Whatever a device holds is then worth at
most sum over r of pi[g, k, r], and covering every model's demand at these prices costs in sum at
most what the devices cost plus what they are worth beyond it: a bound that no plan can beat. For
goodput in the same way: what models gain beyond the prices, plus the worth of all devices. The
best prices are the duals of the linear relaxation in which all devices of one kind are poured
together (`weighted`); given the prices, each model's best set is found over whole replicas, which
is stronger than the relaxation. The bound holds for any prices, so a solver's rounding cannot
make it wrong. What whole replicas on whole devices prove beyond that, `market` finds.
"""

import dataclasses
import math
from typing import Final

import numpy as np

from partitiond.planner.arrays import Problem, build_problem
from partitiond.planner.classes import make_classes
from partitiond.planner.instance import PRICE_SCALE, RATE_SCALE, Instance
from partitiond.planner.sites import RESOURCES as DEVICE_RESOURCES
from partitiond.planner.sites import Floats, Ints, Sites, survival_needs
from partitiond.planner.weighted import (
    SAFETY,
    Weighted,
    Worth,
    best_multiple,
    bound_at,
    entry_prices,
    shares,
    solve_sampled,
)

RESOURCES: Final = (*DEVICE_RESOURCES, "load", "count")
GRID: Final = 400
"""Steps into which a demand is cut when its best covering set is sought."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One way to place one replica of a model: item, kind of device, way to run it.

    Attributes:
        use: share of one device's capacity, by resource.
        pools: worth of what it takes of what hosts share, in devices' cost.
        cost: what it costs beyond its device.
    """

    model: int
    item: int
    group: int
    option: int
    rate: int
    use: tuple[float, ...]
    pools: float = 0.0
    cost: float = 0.0


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
        worth = sum(price * use for price, use in zip(prices, entry.use, strict=True))
        return worth + entry.pools + entry.cost


def bound_cost(instance: Instance, problem: Problem | None = None) -> Bound:
    """The least cost of devices that serve everything; `problem` is the instance's, if at hand."""
    return _bound(instance, with_survival(problem or build_problem(instance)), as_cost=True)


def bound_goodput(instance: Instance, problem: Problem | None = None) -> Bound:
    """The most weighted requests/s that the devices can give."""
    return _bound(instance, problem or build_problem(instance), as_cost=False)


def with_survival(problem: Problem) -> Problem:
    """The same with what surviving a loss asks for at least, where all demand is served."""
    if not problem.instance.ties.spread:
        return problem

    def holding(position: int) -> Ints:
        mine = problem.entry_place[problem.entry_model == position]
        return np.unique(problem.place_group[mine])

    rate, least = survival_needs(problem.instance, problem.need_rate, problem.need_min, holding)
    return dataclasses.replace(problem, need_rate=rate, need_min=least)


def _bound(instance: Instance, problem: Problem, *, as_cost: bool) -> Bound:
    classes = make_classes(problem)
    reduced = classes.entries
    found = solve_sampled(reduced, as_cost)
    if found is None:
        entries = _entries(problem, np.zeros(len(problem.entry_item)))
        return Bound(None, _flat_prices(instance), entries)
    value = _cost_value(reduced, found) if as_cost else _goodput_value(reduced, found)
    pools = (reduced.entry_pool @ found.pool)[classes.entry_of]
    place_of = {
        (int(reduced.place_group[p]), int(reduced.place_option[p])): p
        for p in range(len(reduced.place_group))
    }
    prices, used = {}, {}
    for group in instance.groups:
        cls = int(classes.class_of[group.index])
        part = len(group.bins) / max(1, int(reduced.group_count[cls]))
        for option in range(len(group.options)):
            place = place_of[cls, option]
            prices[group.index, option] = tuple(map(float, found.price[place]))
            used[group.index, option] = float(found.used[place]) * part
    entries = _entries(problem, pools)
    return Bound(None if math.isinf(value) else value, prices, entries, used)


def _entries(problem: Problem, pools: Floats) -> dict[int, tuple[Entry, ...]]:
    needs = problem.instance.needs
    found: dict[int, list[Entry]] = {need.model: [] for need in needs}
    use = shares(problem).tolist()
    for e, position in enumerate(problem.entry_model):
        place = int(problem.entry_place[e])
        model = needs[position].model
        found[model].append(
            Entry(
                model=model,
                item=int(problem.entry_item[e]),
                group=int(problem.place_group[place]),
                option=int(problem.place_option[place]),
                rate=int(problem.entry_rate[e]),
                use=tuple(use[e]),
                pools=float(pools[e]),
                cost=int(problem.entry_cost[e]) / PRICE_SCALE,
            )
        )
    return {model: tuple(mine) for model, mine in found.items()}


def _flat_prices(instance: Instance) -> dict[tuple[int, int], tuple[float, ...]]:
    """Every resource worth the same, where the relaxation gives no prices."""
    each = 1.0 / len(RESOURCES)
    return {
        (g.index, k): tuple([each * g.price / PRICE_SCALE] * len(RESOURCES))
        for g in instance.groups
        for k in range(len(g.options))
    }


def _worth_of_devices(reduced: Problem, found: Weighted) -> Worth:
    """What the best-run device of each class is worth at most, and all pools."""
    value = np.zeros(len(reduced.group_count))
    np.maximum.at(value, reduced.place_group, found.price.sum(axis=1) * (1 + SAFETY))
    cost = np.asarray(reduced.group_cost / PRICE_SCALE, dtype=np.float64)
    pools = float(found.pool @ reduced.pool_capacity) if len(found.pool) else 0.0
    return Worth(value, cost, reduced.group_count, pools)


def _ways(reduced: Problem, found: Weighted) -> list[list[tuple[float, float, int]]]:
    """Price, cost beyond the device, and rate of each entry, by model."""
    ways: list[list[tuple[float, float, int]]] = [[] for _ in reduced.need_rate]
    price = entry_prices(reduced, found)
    cost = reduced.entry_cost / PRICE_SCALE
    for e, model in enumerate(reduced.entry_model):
        ways[model].append((float(price[e]), float(cost[e]), int(reduced.entry_rate[e])))
    return ways


def _cost_value(reduced: Problem, found: Weighted) -> float:
    """Sum of each model's cheapest covering set, less what devices are worth beyond their cost."""
    ways = _ways(reduced, found)
    needs = list(zip(reduced.need_rate.tolist(), reduced.need_min.tolist(), strict=True))

    def covered(t: float, fixed: float) -> float:
        return math.fsum(
            cheapest_cover([(t * p + fixed * c, r) for p, c, r in mine], rate, least)
            for mine, (rate, least) in zip(ways, needs, strict=True)
        )

    worth = _worth_of_devices(reduced, found)
    t, bound = best_multiple(covered(1.0, 0.0), worth)
    if reduced.entry_cost.any() and math.isfinite(bound):
        bound = max(bound_at(s, covered(s, 1.0), worth) for s in {t, 1.0})
    return round_up(reduced, bound)


def _goodput_value(reduced: Problem, found: Weighted) -> float:
    """What each model gains at most beyond the prices, and what all devices are worth."""
    worth = _worth_of_devices(reduced, found)
    parts = [worth.of_all()]
    rated = bool(reduced.need_rated.any())
    held = np.zeros(len(reduced.group_count), dtype=np.int64)
    np.maximum.at(held, reduced.place_group, reduced.max_items)
    room = int(held @ reduced.group_count)
    for model, mine in enumerate(_ways(reduced, found)):
        weight = float(reduced.need_weight[model]) / RATE_SCALE
        if rated:
            parts.append(most_gain([(p, r) for p, _, r in mine], reduced.need_rate[model], weight))
        else:
            most = min(room, int(reduced.need_max[model]))
            parts.append(most * max([0.0, *(weight * r - p for p, _, r in mine)]))
    total = math.fsum(parts)
    return total + SAFETY * abs(total)


def _steps(ways: list[tuple[float, int]], rate: int) -> tuple[int, list[float]]:
    """Size of a step of the demand, and the least price to cover so many steps, rounded up."""
    divisor = math.gcd(*(each for _, each in ways))
    step = divisor if 0 < rate <= divisor * GRID else max(1, -(-rate // GRID))
    cells = -(-rate // step)
    best_of: dict[int, float] = {}
    for price, each in ways:
        cell = min(cells, -(-each // step))
        if cell > 0:
            best_of[cell] = min(price, best_of.get(cell, math.inf))
    pruned: list[tuple[int, float]] = []
    for cell, price in sorted(best_of.items(), reverse=True):
        if not pruned or price < pruned[-1][1]:
            pruned.append((cell, price))
    least = [0.0] * (cells + 1)
    for amount in range(1, cells + 1):
        options = [price + least[max(0, amount - cell)] for cell, price in pruned]
        least[amount] = min(options, default=math.inf)
    return step, least


def cheapest_cover(ways: list[tuple[float, int]], rate: int, replicas: int) -> float:
    """Least price of whole replicas that cover `rate` and count at least `replicas`.

    A lower bound: rates are rounded up to the demand's grid, and the larger of the two
    conditions is taken.

    Args:
        ways: price and rate of one replica.
    """
    several = replicas * min((price for price, _ in ways), default=math.inf) if replicas else 0.0
    if rate <= 0:
        return several
    _, least = _steps(ways, rate)
    return max(least[-1], several)


def most_gain(ways: list[tuple[float, int]], rate: int, weight: float) -> float:
    """Most of weight * min(rate covered, rate) less the price, over whole replicas.

    An upper bound: rates are rounded up to the demand's grid.
    """
    if rate <= 0:
        return 0.0
    step, least = _steps(ways, int(rate))
    return max(weight * min(int(rate), n * step) - price for n, price in enumerate(least))


def round_up(problem: Problem | Sites, bound: float) -> float:
    """The least cost of a plan that is not below the bound.

    Costs are multiples of their common divisor; and n devices cost from n times the cheapest to
    n times the dearest.
    """
    if not math.isfinite(bound) or bound <= 0.0 or not len(problem.group_cost):
        return bound
    units = [int(c) for c in problem.group_cost]
    extra = [int(c) for c in problem.entry_cost]
    low, high = min(units) / PRICE_SCALE, max(units) / PRICE_SCALE
    slack = 1e-7 * max(1.0, bound)
    best = bound
    step = math.gcd(*units, *extra) / PRICE_SCALE
    if step > 0:
        best = max(best, math.ceil((bound - slack) / step) * step)
    if high > 0 and not any(extra):
        best = max(best, math.ceil((bound - slack) / high) * low)
    return best
