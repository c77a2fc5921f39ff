"""Prices the resources of devices, and derives a bound from the prices.

A replica's price is the worth of what it takes of its device (memory, SM percent, cores, MIG
slices, load, number), of what hosts share, and of the largest number of replicas of its model.
However a device is run, its contents are worth no more than all of its resources. Covering every
model's demand at these prices therefore costs no more than the cost of the devices, their worth
beyond that cost, and the worth of what is shared: a bound that no plan can beat. The same holds for
goodput: the models' gains beyond the prices, plus the worth of all devices and of what is shared.

The prices are the duals of a linear program that pours all devices of one class together. At these
prices each model's best set is found over whole replicas, which is a tighter bound than the
program's. It holds for any prices, so a solver's rounding cannot make it wrong. `columns` finds
what whole replicas on whole devices prove beyond that.
"""

import dataclasses
import math
from typing import Final, NamedTuple

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from partitiond.planner.bounds.placements_lp import Pours, make_pours
from partitiond.planner.model.sites import NO_LIMIT, Floats, Ints, Sites, build_sites, with_survival
from partitiond.planner.model.types import PRICE_SCALE, RATE_SCALE, Instance

MANY: Final = 1_000_000
"""`need_max` values from this number on do not limit."""
SAFETY: Final = 1e-9
"""Relative slack subtracted for floating-point sums."""
SAMPLE: Final = 25_000
"""Pours of the linear program, which takes a third of a second for this many."""
POURS_PER_SECOND: Final = 10_000
"""Pours of the linear program per second of the time limit, of which they take an eighth. All
90,000 of 100 models on 64 devices prove 3.5 % less goodput than 25,000 (bench.planner)."""
MOST_POURS: Final = 200_000
"""For 1,000 models on 512 devices, twice as many prove a part in a thousand more, and take three
times as long."""
PROOF: Final = 1e-6
"""Relative excess of demand that counts as a proof that devices cannot serve it."""
GRID: Final = 400
"""Number of steps into which a demand is cut to find its best covering set. Chosen."""
FLOOR: Final = 0.1
"""Share of a device's price that is spread over what a replica uses: a resource with price 0, as it
is plentiful in the relaxation, can be scarce on single devices. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Prices of replicas, and the bound that they prove.

    Attributes:
        value: bound on the cost of devices and replicas, or on weighted requests/s. None: it is
            proven that the devices cannot serve everything.
        entry: (E,) price of one replica at its lowest level, in the objective's unit; above 0.
    """

    value: float | None
    entry: Floats


def linear_prices(sites: Sites, *, as_cost: bool, most: int = SAMPLE) -> Prices:
    """Return the prices of the relaxation, and the bound that they prove.

    Args:
        sites: the instance as arrays.
        as_cost: True to serve all demand at the least cost; False to maximise goodput.
        most: limit on pours of the linear program; if there are more, a sample is solved.
    """
    if as_cost:
        sites = with_survival(sites)
        if impossible(sites):
            return Prices(None, usual_prices(sites))
    pours = make_pours(sites)
    found = solve_sampled(pours, as_cost=as_cost, most=most)
    value = cost_bound(pours, found) if as_cost else goodput_bound(pours, found)
    return Prices(None if math.isinf(value) else value, entry_prices(pours, found))


def bound_of(instance: Instance, *, as_cost: bool) -> float | None:
    """Return a bound that no plan can beat; None if not everything can be served, by proof."""
    return linear_prices(build_sites(instance), as_cost=as_cost).value


def impossible(sites: Sites) -> bool:
    """Whether a least number or a rate needs more replicas than the largest number allows."""
    best = np.zeros(len(sites.need_rate), dtype=np.int64)
    np.maximum.at(best, sites.entry_model, sites.rates.max(axis=1, initial=0))
    limited = sites.need_max < MANY
    most = np.where(limited, sites.need_max, 0).astype(np.float64) * best
    few = (sites.need_min > sites.need_max).any()
    return bool(few or (limited & (sites.need_rate > most * (1 + SAFETY))).any())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Duals:
    """The optimum of the linear program. Bounds hold for any nonnegative prices.

    Attributes:
        price: (W, R) worth of all of one device's resources.
        pool: (P,) worth of all of each merged pool.
        scarce: (M,) worth of one of the replicas in a model's largest number.
    """

    price: Floats
    pool: Floats
    scarce: Floats


def pours_of(limit: float) -> int:
    """Return the limit on pours of a linear program in a time limit, of which it has an eighth."""
    return min(max(SAMPLE, round(POURS_PER_SECOND * limit)), MOST_POURS)


def solve_sampled(pours: Pours, *, as_cost: bool, most: int = SAMPLE, part: bool = False) -> Duals:
    """Return the duals of one in n models and an n-th of all devices, if there are many pours.

    The sample is random with a fixed seed: models may be listed in an order with a period.

    Bounds hold for any prices, and a sample's prices are nearly those of all models. If the sample
    cannot be served, that proves nothing: the prices are then those for the most goodput; if `part`
    is True, those for the largest common part of the demands.
    """
    every = max(1, -(-len(pours.entry) // most))
    models = len(pours.sites.need_rate)
    chosen = np.random.default_rng(0).permutation(models)[: -(-models // every)]
    mine = np.flatnonzero(np.isin(pours.model, chosen))
    program = _Program(pours, mine, every, as_cost=as_cost)
    if part:
        program.ask_part()
    found = program.solve(part=as_cost and every == 1)
    if found is None and as_cost:
        found = _Program(pours, mine, every, as_cost=False).solve(part=False)
    return _alike(pours) if found is None else found


def _alike(pours: Pours) -> Duals:
    """Return prices for use without a solution: all resources count the same."""
    resources = pours.share.shape[1]
    price = np.repeat(pours.classes.cost[pours.way_class][:, None] / resources, resources, axis=1)
    pools, models = np.zeros(pours.classes.pools), np.zeros(len(pours.sites.need_rate))
    return Duals(price, pools, models)


NO_SOLUTION: Final = (
    mathopt.TerminationReason.INFEASIBLE,
    mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED,
)
"""Termination reasons of programs that cannot be unbounded, because all columns are bounded."""

Terms = tuple[Ints, Ints | int, Floats | Ints | float]
"""Rows, columns and coefficients of terms of a linear program."""


class _Program:
    """The linear program: pours go into ways to run devices, and ways into classes.

    Columns are the pours, the devices run each way, what each model is served, and the lacking part
    of all that is wanted.

    Args:
        pours: all pours.
        mine: those of them that count.
        every: devices and pools count as one part in this many.
        as_cost: True for cost, False for goodput.
    """

    def __init__(self, pours: Pours, mine: Ints, every: int, *, as_cost: bool) -> None:
        self.pours, self.mine, self.every = pours, mine, every
        self.model, self.poured = pours.model[self.mine], np.arange(len(self.mine))
        self.models = np.arange(len(pours.sites.need_rate))
        self.used = len(self.mine) + np.arange(len(pours.way_class))
        self.served = len(self.mine) + len(self.used) + self.models
        self.lacking = len(self.mine) + len(self.used) + len(self.models)
        self.objective, self.most = np.zeros(self.lacking + 1), np.full(self.lacking + 1, np.inf)
        self.most[[*self.served, self.lacking]] = 0.0
        self.maximize, self.rows = False, 0
        self.terms, self.limits = list[Terms](), list[tuple[Floats, Floats]]()
        self.counted = np.bincount(self.model, minlength=len(self.models)) > 0
        self._add_devices()
        if as_cost:
            self._ask_cost()
        else:
            self._ask_goodput()

    def _add(
        self,
        count: int,
        *terms: Terms,
        lower: Floats | float = -math.inf,
        upper: Floats | float = math.inf,
    ) -> slice:
        """Add `count` rows, to which the terms' row numbers are relative; return their slice."""
        self.terms += [(row + self.rows, column, value) for row, column, value in terms]
        self.limits.append((np.broadcast_to(lower, count), np.broadcast_to(upper, count)))
        self.rows += count
        return slice(self.rows - count, self.rows)

    def _add_devices(self) -> None:
        pours, classes = self.pours, self.pours.classes
        share, way, drawn = pours.share[self.mine], pours.way[self.mine], pours.pool[self.mine]
        pour, resource = np.nonzero(share)
        size = share.shape[1]
        each = np.arange(len(self.used) * size)
        self.resources = self._add(
            len(each),
            (way[pour] * size + resource, pour, share[pour, resource]),
            (each, self.used[each // size], -1.0),
            upper=0.0,
        )
        count = classes.count / self.every
        self._add(len(count), (pours.way_class, self.used, 1.0), upper=count)
        pour, pool = np.nonzero(drawn)
        self.pools = self._add(
            classes.pools, (pool, pour, drawn[pour, pool]), upper=1.0 / self.every
        )

    def _add_numbers(self, least: Ints) -> None:
        """Limit replicas per model; a full column `lacking` counts as `least` replicas of each."""
        sites, least = self.pours.sites, np.where(self.counted, least, 0)
        self.numbers = self._add(
            len(least),
            (self.model, self.poured, 1.0),
            (self.models, self.lacking, least),
            lower=np.where(least > 0, least, -np.inf),
            upper=np.where(sites.need_max < MANY, sites.need_max, np.inf),
        )

    def _ask_cost(self) -> None:
        """Serve every demand at the least cost; rates beyond a demand count as the demand."""
        pours, sites = self.pours, self.pours.sites
        self.objective[self.used] = pours.classes.cost[pours.way_class]
        self.objective[self.poured] = sites.entry_cost[pours.entry[self.mine]] / PRICE_SCALE
        self._add_numbers(sites.need_min)
        need = np.maximum(sites.need_rate, 1)[self.model]
        part = np.minimum(pours.rate[self.mine], need) / need
        wanted = np.where(self.counted & (sites.need_rate > 0), 1.0, 0.0)
        self._add(
            len(wanted),
            (self.model, self.poured, part),
            (self.models, self.lacking, wanted),
            lower=wanted,
        )

    def _ask_goodput(self) -> None:
        """Maximise weighted requests/s; models without a rate count only if no model has one."""
        sites, rated = self.pours.sites, bool(self.pours.sites.need_rated.any())
        self._add_numbers(0 * self.models)
        counts = self.counted & (sites.need_rated.astype(bool) == rated)
        most = sites.need_rate / RATE_SCALE if rated else np.inf
        self.most[self.served] = np.where(counts, most, 0.0)
        self.maximize, self.objective[self.served] = True, sites.need_weight
        rate = self.pours.rate[self.mine] / RATE_SCALE
        self._add(
            len(counts),
            (self.model, self.poured, -rate),
            (self.models, self.served, 1.0),
            upper=0.0,
        )

    def ask_part(self) -> None:
        """Serve as large a part of all demands as can be served, at whatever cost."""
        self.objective[:] = 0.0
        self.objective[self.lacking] = self.most[self.lacking] = 1.0

    def solve(self, *, part: bool) -> Duals | None:
        """Return the duals; None if there is no solution.

        If not all demand can be served and `part` is True, the duals are those of the largest part
        that can be served: at these prices, all demand takes more than there is, which proves that
        it cannot be served.
        """
        result = self._result()
        if part and result.termination.reason in NO_SOLUTION:
            self.ask_part()
            result = self._result()
        if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
            return None
        dual = np.array([*result.dual_values().values()])  # ordered by their ids
        # For a row with both limits, the sign tells which limit is met.
        scarce = np.maximum(0.0, dual[self.numbers] if self.maximize else -dual[self.numbers])
        return Duals(
            price=np.abs(dual[self.resources]).reshape(-1, self.pours.share.shape[1]),
            pool=np.abs(dual[self.pools]),
            scarce=np.where(self.pours.sites.need_max < MANY, scarce, 0.0),
        )

    def _result(self) -> mathopt.SolveResult:
        proto = model_pb2.ModelProto()
        proto.variables.ids.extend(range(len(self.objective)))
        proto.variables.lower_bounds.extend(np.zeros(len(self.objective)))
        proto.variables.upper_bounds.extend(self.most)
        proto.variables.integers.extend([False] * len(self.objective))
        proto.objective.maximize = self.maximize
        there = np.flatnonzero(self.objective)
        proto.objective.linear_coefficients.ids.extend(there)
        proto.objective.linear_coefficients.values.extend(self.objective[there])
        lower, upper = (np.concatenate(mine) for mine in zip(*self.limits, strict=True))
        proto.linear_constraints.ids.extend(range(len(lower)))
        proto.linear_constraints.lower_bounds.extend(lower)
        proto.linear_constraints.upper_bounds.extend(upper)
        full = [np.broadcast_arrays(*each) for each in self.terms]
        row, column, value = (np.concatenate(mine) for mine in zip(*full, strict=True))
        order = np.lexsort((column, row))
        order = order[value[order] != 0]
        proto.linear_constraint_matrix.row_ids.extend(row[order])
        proto.linear_constraint_matrix.column_ids.extend(column[order])
        proto.linear_constraint_matrix.coefficients.extend(value[order])
        none = mathopt.VariableFilter(filtered_items=())  # to read all values takes as long
        only = mathopt.ModelSolveParameters(variable_values_filter=none, reduced_costs_filter=none)
        model = mathopt.Model.from_model_proto(proto)
        return mathopt.solve(model, mathopt.SolverType.GLOP, model_params=only)


def pour_prices(pours: Pours, found: Duals) -> Floats:
    """Return the (N,) price of one replica of each pour: of what it takes of its device and pools,
    and of its model's largest number of replicas."""
    price = (pours.share * found.price[pours.way]).sum(axis=1)
    return np.asarray(price + pours.pool @ found.pool + found.scarce[pours.model])


def entry_prices(pours: Pours, found: Duals) -> Floats:
    """Return the (E,) price of one replica at its lowest level, by the way to place it that is
    cheapest for what the replica serves there."""
    sites = pours.sites
    device = np.maximum(1e-6, pours.classes.cost)[pours.way_class[pours.way]]
    price = pour_prices(pours, found) + sites.entry_cost[pours.entry] / PRICE_SCALE
    price += FLOOR * device * pours.share.max(axis=1)
    need = np.where(sites.need_rate > 0, sites.need_rate, NO_LIMIT)[pours.model]
    full = np.minimum(sites.rates[pours.entry, 0], need)
    each = np.full(len(sites.entry_item), np.inf)
    np.minimum.at(each, pours.entry, price * full / np.maximum(1, np.minimum(pours.rate, need)))
    return np.where(np.isfinite(each), each, np.maximum(1.0, pours.classes.cost.max(initial=1.0)))


class ClassWorth(NamedTuple):
    """The worth of devices, and of what they share, at some prices.

    Attributes:
        value: (C,) upper bound on the worth of a device of each class.
        cost, devices: (C,) cost of one device, and number of devices.
        pools: worth of all pools, and of all replicas in the models' largest numbers.
    """

    value: Floats
    cost: Floats
    devices: Ints
    pools: float

    def of_all(self) -> float:
        """Return the worth of all devices and of all that they share."""
        return float(self.value @ self.devices) + self.pools


def best_multiple(covered: float, worth: ClassWorth) -> tuple[float, float]:
    """Return the factor t for which t * prices give the best bound on the cost, and that bound.

    Covering sets cost `covered` at the prices, and a device of class c is worth at most `value[c]`,
    so all plans cost at least t covered - sum count max(0, t value - cost) - t pools. That is
    concave and piecewise linear in t, so it is best at a break, or grows without end. The latter
    proves that not all can be served, and the bound is infinite.
    """
    if covered > (worth.of_all() + PROOF) * (1 + PROOF):
        return 1.0, math.inf
    breaks = {float(k / v) for k, v in zip(worth.cost, worth.value, strict=True) if v > 0}
    found = [(t, bound_at(t, t * covered, worth)) for t in sorted(breaks | {1.0})]
    return max(found, key=lambda pair: pair[1])


def bound_at(t: float, covered: float, worth: ClassWorth) -> float:
    """Return the cost bound at t times the prices, at which covering sets cost `covered`."""
    excess = np.maximum(0.0, t * worth.value - worth.cost) * worth.devices
    parts = [covered, *(-excess), -t * worth.pools]
    return math.fsum(parts) - SAFETY * math.fsum(abs(x) for x in parts)


def worth_of(pours: Pours, found: Duals) -> ClassWorth:
    """Return the most that a device of each class is worth, however run, and the shared worth."""
    value = np.zeros(len(pours.classes.count))
    np.maximum.at(value, pours.way_class, found.price.sum(axis=1) * (1 + SAFETY))
    shared = math.fsum([*found.pool, *(found.scarce * pours.sites.need_max)])
    return ClassWorth(value, pours.classes.cost, pours.classes.count, shared)


def cost_bound(pours: Pours, found: Duals) -> float:
    """Return the sum of the cheapest covering sets, less the devices' worth beyond their cost.

    Infinite if that proves that not everything can be served.
    """
    sites, price = pours.sites, pour_prices(pours, found)
    extra = sites.entry_cost[pours.entry] / PRICE_SCALE

    def covered(t: float, fixed: float) -> float:
        each = t * price + fixed * extra
        return math.fsum(
            cheapest_covers(pours.model, each, pours.rate, sites.need_rate, sites.need_min)
        )

    worth = worth_of(pours, found)
    t, bound = best_multiple(covered(1.0, 0.0), worth)
    if sites.entry_cost.any() and math.isfinite(bound):
        bound = max(bound_at(s, covered(s, 1.0), worth) for s in {t, 1.0})
    return round_up(sites, max(0.0, bound))


def goodput_bound(pours: Pours, found: Duals) -> float:
    """Return the most that models gain beyond the prices, plus the worth of all devices."""
    sites, price = pours.sites, pour_prices(pours, found)
    weight = sites.need_weight / RATE_SCALE
    if sites.need_rated.any():
        gain = most_gains(pours.model, price, pours.rate, sites.need_rate, weight)
    else:
        gain = np.zeros(len(sites.need_rate))
        np.maximum.at(gain, pours.model, weight[pours.model] * pours.rate - price)
        held = np.zeros(len(pours.classes.count), dtype=np.int64)
        np.maximum.at(held, pours.way_class, sites.max_items[pours.way_site])
        gain = gain * np.minimum(sites.need_max, int(held @ pours.classes.count))
    total = math.fsum([worth_of(pours, found).of_all(), *gain])
    return total + SAFETY * abs(total)


def _least_prices(model: Ints, price: Floats, rate: Ints, need: Ints) -> tuple[Ints, Ints, Floats]:
    """Return (M,) the size of a step of each demand and the number of steps, rounded up, and
    (M, GRID + 1) the least price of whole replicas that cover each number of steps."""
    step = np.maximum(1, -(-need // GRID))
    order = np.argsort(model, kind="stable")
    there, first = np.unique(model[order], return_index=True)
    if len(there):
        # Rates with a common divisor are counted in it, without rounding.
        divisor = np.gcd.reduceat(rate[order], first)
        step[there] = np.where(need[there] <= divisor * GRID, np.maximum(1, divisor), step[there])
    cells = -(-need // step)
    cell = np.minimum(cells[model], -(-rate // step[model]))
    best = np.full((len(need), GRID + 2), np.inf)
    np.minimum.at(best, (model, cell), price)
    beyond = np.minimum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
    # A size that another one beats, with at least as many steps for no more, is left out.
    owner, size = np.nonzero(best[:, 1:-1] < beyond[:, 2:])
    size += 1
    each = best[owner, size]
    least = np.full((GRID + 1, len(need)), np.inf)
    least[0] = 0.0
    there, first = np.unique(owner, return_index=True)
    for amount in range(1, int(cells.max(initial=0)) + 1) if len(there) else ():
        options = each + least[np.maximum(0, amount - size), owner]
        least[amount, there] = np.minimum.reduceat(options, first)
    return step, cells, least.T


def cheapest_covers(model: Ints, price: Floats, rate: Ints, need: Ints, replicas: Ints) -> Floats:
    """Return (M,) the least price of whole replicas that cover a rate and a number of replicas.

    A lower bound: rates are rounded up to the demand's grid, fractional replicas count if that is
    more, and the larger of the two conditions is taken. Infinite if nothing covers a demand.

    Args:
        model, price, rate: (N,) of one replica each way.
        need, replicas: (M,) rate and number of replicas that must be covered.
    """
    _, cells, least = _least_prices(model, price, rate, need)
    single = np.full(len(need), np.inf)
    np.minimum.at(single, model, price)
    several = np.where(replicas > 0, single, 0.0) * replicas
    parts = np.where(need > 0, _least_per_unit(model, price, rate, len(need)), 0.0) * need
    return np.asarray(np.maximum.reduce([least[np.arange(len(need)), cells], parts, several]))


def most_gains(model: Ints, price: Floats, rate: Ints, need: Ints, weight: Floats) -> Floats:
    """Return (M,) the most of weight * min(rate covered, need) less the price, in whole replicas.

    An upper bound: rates are rounded up to the demand's grid, or fractional replicas count.
    """
    step, _, least = _least_prices(model, price, rate, need)
    served = np.minimum(np.arange(GRID + 1)[None, :] * step[:, None], need[:, None])
    whole = (weight[:, None] * served - least).max(axis=1)
    each = np.maximum(0.0, weight - _least_per_unit(model, price, rate, len(need)))
    return np.asarray(np.minimum(whole, each * need))


def _least_per_unit(model: Ints, price: Floats, rate: Ints, models: int) -> Floats:
    """Return (M,) the least price per unit of rate; infinite if nothing serves a model.

    It helps for a demand of more replicas than the grid has steps, as each is rounded up to a step.
    """
    found: Floats = np.full(models, np.inf)
    serves = rate > 0
    np.minimum.at(found, model[serves], price[serves] / rate[serves])
    return found


def round_up(sites: Sites, bound: float) -> float:
    """Return the least possible cost of a plan that is not below the bound.

    Costs are multiples of their common divisor, and n devices cost from n times the cheapest to
    n times the most expensive device.
    """
    if not math.isfinite(bound) or bound <= 0.0 or not len(sites.group_cost):
        return bound
    units, extra = sites.group_cost.tolist(), sites.entry_cost.tolist()
    low, high = min(units) / PRICE_SCALE, max(units) / PRICE_SCALE
    best, slack = bound, 1e-7 * max(1.0, bound)
    step = math.gcd(*units, *extra) / PRICE_SCALE
    if step > 0:
        best = max(best, math.ceil((bound - slack) / step) * step)
    if high > 0 and not any(extra):
        best = max(best, math.ceil((bound - slack) / high) * low)
    return best


def usual_prices(sites: Sites) -> Floats:
    """Return (E,) what an entry takes of a device, in devices' cost: the norm of its shares.

    The norm lies between the largest share (one resource is scarce) and the sum (all are scarce).
    """
    limits = np.where(sites.capacity < NO_LIMIT, np.maximum(sites.capacity, 1), NO_LIMIT)
    share = sites.entry_use / limits[sites.entry_site]
    busy = sites.entry_busy / np.maximum(1, _usual_load(sites))[sites.entry_site]
    number = 1.0 / np.maximum(1, sites.max_items)[sites.entry_site]
    squares = (share**2).sum(axis=1) + busy**2 + number**2
    cost = np.zeros(int(sites.class_of.max(initial=-1)) + 1)
    cost[sites.class_of] = np.maximum(1, sites.group_cost)
    usual = max(1.0, float(cost.max(initial=1.0)))
    return np.asarray(np.sqrt(squares) * cost[sites.site_class[sites.entry_site]] / usual)


def _usual_load(sites: Sites) -> Ints:
    """Return (Q,) the load limit for one replica in the middle of a site's levels."""
    rows = sites.limit_of[:, sites.limit_of.shape[1] // 2]
    # Of the kappas, the largest one; a mode with fewer levels has none in the middle.
    last = (rows.shape[1] - 1 - np.argmax(rows[:, ::-1] >= 0, axis=1))[:, None]
    row = np.take_along_axis(rows, last, axis=1)[:, 0]
    return np.where(row >= 0, sites.busy_limit[row, 1], NO_LIMIT)
