"""A plan made of sets: how many devices hold each, as an integer program.

The sets are those that a column generation found at good prices, and those of plans that are known.
Devices that hold a model that has to be near another one keep what a known plan has on them, and
the others are chosen for. Whether enough is left when a host is lost is not asked.
"""

import collections
import datetime
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.planner.market.program import LONGEST_SECONDS
from partitiond.planner.market.value import Market, Pattern, patterns_of
from partitiond.planner.packing import Packing
from partitiond.planner.sites import Floats, Ints
from partitiond.planner.types import RATE_SCALE

MOST_REPLICAS: Final = 1_000_000
"""`need_max` from here on does not limit."""


def choose(
    market: Market,
    patterns: Sequence[Pattern],
    known: Packing | None,
    *,
    seconds: float,
    nodes: int | None = None,
    hint: Packing | None = None,
) -> Packing | None:
    """The best plan of the sets that is found in that time; None where there is none.

    It cannot be ended early (what OR-Tools 9.15 has for that writes errors and comes late), so it
    is to be asked for short times, again and again, with what it found before.

    It keeps all limits, but may lack something where hosts differ: pools of alike hosts are taken
    together here, and a replica that its host has no room for is left out.

    Args:
        market: prices and classes.
        patterns: the sets.
        known: a plan that keeps models near each other that have to be; None without such models.
        seconds: the clock's limit.
        nodes: a limit in branches.
        hint: a plan to start from; of its sets those count that are among `patterns`.
    """
    base, tied = _kept(market, known), _near(market)
    usable = [p for p in patterns if tied.isdisjoint(market.sites.entry_model[p.entries].tolist())]
    model, held = _model(market, usable, base)
    limit = datetime.timedelta(seconds=min(LONGEST_SECONDS, max(0.01, seconds)))
    found = mathopt.solve(
        model,
        mathopt.SolverType.GSCIP,
        params=mathopt.SolveParameters(time_limit=limit, node_limit=nodes),
        model_params=mathopt.ModelSolveParameters(
            solution_hints=[] if hint is None else [_hint(market, usable, held, hint)]
        ),
    )
    if not found.has_primal_feasible_solution():
        return None
    values = found.variable_values()
    counts = [round(values[variable]) for variable in held]
    return _placed(market, usable, counts, base)


def _hint(
    market: Market,
    patterns: Sequence[Pattern],
    held: Sequence[mathopt.Variable],
    hint: Packing,
) -> mathopt.SolutionHint:
    counts = collections.Counter(p.key for p in patterns_of(market, hint))
    return mathopt.SolutionHint(
        variable_values={
            variable: float(counts.get(pattern.key, 0))
            for pattern, variable in zip(patterns, held, strict=True)
        }
    )


def _near(market: Market) -> frozenset[int]:
    """Models that have to be near others, or others to them, by their position in `needs`."""
    ties, needs = market.sites.instance.ties, market.sites.instance.needs
    return frozenset(m for m, n in enumerate(needs) if n.model in ties.near.keys() | ties.near_to)


def _kept(market: Market, known: Packing | None) -> Packing:
    """What a plan has on devices that hold a model that is tied to others."""
    instance, ties = market.sites.instance, market.sites.instance.ties
    base, tied = Packing(instance), ties.near.keys() | ties.near_to.keys()
    for d, load in enumerate(known.loads if known is not None and tied else ()):
        if any(instance.items[item].model in tied for item in load.items):
            for item in load.items:
                assert load.option is not None
                base.add(d, item, load.option)
    return base


def _model(
    market: Market, patterns: Sequence[Pattern], base: Packing
) -> tuple[mathopt.Model, list[mathopt.Variable]]:
    """The integer program, and its variables in step with the sets."""
    model = mathopt.Model()
    free, rate, number = _left(market, base)
    held = [model.add_integer_variable(lb=0.0, ub=float(max(0, free[p.cls]))) for p in patterns]
    classes = [model.add_linear_constraint(ub=float(max(0, n))) for n in free]
    pools = [model.add_linear_constraint(ub=1.0) for _ in range(market.classes.pools)]
    served, least, most = _rows(market, model, rate, number)
    for pattern, variable in zip(patterns, held, strict=True):
        classes[pattern.cls].set_coefficient(variable, 1.0)
        if market.as_cost:
            model.objective.set_linear_coefficient(variable, market.cost_of(pattern))
        for pool, share in market.drawn(pattern):
            pools[pool].set_coefficient(variable, share)
        for m, (gives, copies) in _gives(market, pattern).items():
            if m in served:
                part = gives / rate[m]
                served[m].set_coefficient(variable, min(1.0, part) if market.as_cost else part)
            for rows in (least, most):
                if m in rows:
                    rows[m].set_coefficient(variable, float(copies))
    model.objective.is_maximize = not market.as_cost
    return model, held


def _left(market: Market, base: Packing) -> tuple[Ints, Floats, Ints]:
    """Devices of each class that are chosen for; the rate and replicas each model has already."""
    sites, needs = market.sites, market.sites.instance.needs
    free = market.classes.count.copy()
    for d in base.used():
        free[market.classes.of_group[base.loads[d].group]] -= 1
    rate = np.maximum(0.0, sites.need_rate - np.array([base.rates[n.model] for n in needs]))
    return free, rate, np.array([base.counts[n.model] for n in needs], dtype=np.int64)


def _rows(
    market: Market, model: mathopt.Model, rate: Floats, number: Ints
) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Rows of the models: what is served of the rest, least and most replicas."""
    sites = market.sites
    served, least, most = dict[int, Any](), dict[int, Any](), dict[int, Any]()
    counted = bool(sites.need_rated.any())
    for m in range(len(rate)):
        if rate[m] > 0 and market.as_cost:
            served[m] = model.add_linear_constraint(lb=1.0)
        elif rate[m] > 0 and bool(sites.need_rated[m]) == counted:
            share = model.add_variable(lb=0.0, ub=1.0)
            served[m] = model.add_linear_constraint(lb=0.0)
            served[m].set_coefficient(share, -1.0)
            worth = float(sites.need_weight[m]) * float(rate[m]) / RATE_SCALE
            model.objective.set_linear_coefficient(share, worth)
        if sites.need_min[m] > number[m]:
            least[m] = model.add_linear_constraint(lb=float(sites.need_min[m] - number[m]))
        if sites.need_max[m] < MOST_REPLICAS:
            most[m] = model.add_linear_constraint(ub=float(max(0, sites.need_max[m] - number[m])))
    return served, least, most


def _gives(market: Market, pattern: Pattern) -> dict[int, tuple[float, int]]:
    """Rate and replicas that a set has of each model."""
    found: dict[int, tuple[float, int]] = collections.defaultdict(lambda: (0.0, 0))
    for e in pattern.entries.tolist():
        m = int(market.sites.entry_model[e])
        rate, copies = found[m]
        found[m] = (rate + float(market.sites.rates[e, pattern.level]), copies + 1)
    return found


def _placed(
    market: Market, patterns: Sequence[Pattern], counts: Sequence[int], packing: Packing
) -> Packing:
    """The sets on devices of their classes beside what the packing has; it is changed."""
    sites = market.sites
    free: dict[int, list[int]] = collections.defaultdict(list)
    for d, load in enumerate(packing.loads):
        if not load.items:
            free[int(market.classes.of_group[load.group])].append(d)
    chosen = [p for p, n in zip(patterns, counts, strict=True) for _ in range(n)]
    # What draws much from hosts first: later there may be room for it on none.
    chosen.sort(key=lambda p: -int(sites.entry_pool[p.entries, 1].sum()))
    for pattern in chosen:
        # Room of a host may be short: the first device for which it is not, or least so.
        at = min(free[pattern.cls], key=lambda d: _lost(market, packing, d, pattern), default=None)
        if at is None:
            continue
        free[pattern.cls].remove(at)
        _put(market, packing, at, pattern)
    return packing


def _lost(market: Market, packing: Packing, d: int, pattern: Pattern) -> float:
    """What hosts have too little of for a whole set on a device, in shares of what they have."""
    instance = packing.instance
    items = market.sites.entry_item[pattern.entries].tolist()
    short = 0.0
    for p in packing.group(d).pools:
        pool = instance.pools[p]
        drawn = sum(instance.pool_use(pool, item) for item in items)
        over = packing.pool_used[p] + drawn - pool.capacity
        short += max(0, over) / max(1, pool.capacity)
    return short


def _put(market: Market, packing: Packing, d: int, pattern: Pattern) -> None:
    """As many replicas of a set as its host has room for, at the option that holds them all."""
    sites, entries = market.sites, pattern.entries
    option = int(
        sites.option_of[pattern.site, pattern.level, int(sites.entry_kappa[entries].max())]
    )
    for item in sites.entry_item[entries].tolist():
        if packing.fits(d, item, option, company=False):
            packing.add(d, item, option)
