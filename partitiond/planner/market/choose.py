"""Chooses a plan made of sets by an integer program: how many devices hold each set.

The sets are those that a column generation found at good prices, and those of known plans. Devices
that hold a model that has to be near another one keep what a known plan has on them; sets are
chosen for the other devices. Whether enough is left when a host is lost is not checked.
"""

import collections
import datetime
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from ortools.math_opt.python import mathopt

from partitiond.core.numbers.grouping import by_key
from partitiond.planner.market.program import LONGEST_SECONDS
from partitiond.planner.market.value import Market, Pattern, patterns_of
from partitiond.planner.model.sites import Floats, Ints
from partitiond.planner.model.types import RATE_SCALE
from partitiond.planner.pack.packing import Packing

MOST_REPLICAS: Final = 1_000_000
"""`need_max` values from this number on do not limit."""


def choose(
    market: Market,
    patterns: Sequence[Pattern],
    known: Packing | None,
    *,
    seconds: float,
    nodes: int | None = None,
    hint: Packing | None = None,
) -> Packing | None:
    """Return the best plan of the sets that is found in that time; None if there is none.

    The solve cannot be ended early (OR-Tools 9.15 logs errors and reacts late), so callers request
    short times, repeatedly, each with the previous result as hint.

    The plan keeps all limits, but may lack something if hosts differ: pools of equal hosts are
    merged here, and a replica that its host has no room for is left out.

    Args:
        known: a plan that keeps models near each other that have to be; None without such models.
        seconds: wall-clock limit.
        nodes: limit on the branches.
        hint: a plan to start from; only its sets that are among `patterns` count.
    """
    needs, ties = market.sites.instance.needs, market.sites.instance.ties
    tied = frozenset(ties.near.keys() | ties.near_to.keys())
    away = np.array([need.model not in tied for need in needs], dtype=bool)
    usable = [p for p in patterns if away[market.sites.entry_model[p.entries]].all()]
    base = _kept(market, known, tied)
    model, held = _model(market, usable, base)
    hints = []
    if hint is not None:
        counts = collections.Counter(p.key for p in patterns_of(market, hint))
        pairs = zip(usable, held, strict=True)
        values = {variable: float(counts[pattern.key]) for pattern, variable in pairs}
        hints = [mathopt.SolutionHint(variable_values=values)]
    limit = datetime.timedelta(seconds=min(LONGEST_SECONDS, max(0.01, seconds)))
    found = mathopt.solve(
        model,
        mathopt.SolverType.GSCIP,
        params=mathopt.SolveParameters(time_limit=limit, node_limit=nodes),
        model_params=mathopt.ModelSolveParameters(solution_hints=hints),
    )
    if not found.has_primal_feasible_solution():
        return None
    numbers = [round(number) for number in found.variable_values(held)]
    return _placed(market, usable, numbers, base)


def _kept(market: Market, known: Packing | None, tied: Collection[int]) -> Packing:
    """Return a plan's contents of the devices that hold a model that is tied to other models."""
    instance = market.sites.instance
    base = Packing(instance)
    for d, load in enumerate(known.loads if known is not None and tied else ()):
        if load.option is not None and any(instance.items[i].model in tied for i in load.items):
            for item in load.items:
                base.add(d, item, load.option)
    return base


def _model(
    market: Market, patterns: Sequence[Pattern], base: Packing
) -> tuple[mathopt.Model, list[mathopt.Variable]]:
    """Return the integer program beside the contents of `base`, and a variable for each set."""
    model = mathopt.Model()
    sites, free = market.sites, market.classes.count.copy()
    for d in base.used():
        free[market.classes.of_group[base.loads[d].group]] -= 1
    models = [need.model for need in sites.instance.needs]
    rate = np.maximum(0.0, sites.need_rate - np.array([base.rates[m] for m in models]))
    number = np.array([base.counts[m] for m in models], dtype=np.int64)
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
        owner = sites.entry_model[pattern.entries]
        rates = sites.rates[pattern.entries, pattern.level]
        for m in np.unique(owner).tolist():
            mine = owner == m
            if m in served:
                part = float(rates[mine].sum() / rate[m])
                served[m].set_coefficient(variable, min(1.0, part) if market.as_cost else part)
            for rows in (least, most):
                if m in rows:
                    rows[m].set_coefficient(variable, float(mine.sum()))
    model.objective.is_maximize = not market.as_cost
    return model, held


def _rows(
    market: Market, model: mathopt.Model, rate: Floats, number: Ints
) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Return rows of the models: the rest of the demand, and least and most replicas.

    Args:
        rate, number: (M,) rate that each model still lacks, and replicas that it already has.
    """
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


def _placed(
    market: Market, patterns: Sequence[Pattern], counts: Sequence[int], packing: Packing
) -> Packing:
    """Add the sets to devices of their classes, in the packing itself, and return it.

    Of each set as many replicas are placed as the device's host has room for, at the option that
    holds them all.
    """
    sites = market.sites
    loads, class_of = packing.loads, market.classes.of_group
    free = by_key((int(class_of[at.group]), d) for d, at in enumerate(loads) if not at.items)
    chosen = [p for p, n in zip(patterns, counts, strict=True) for _ in range(n)]
    # Sets that draw much from hosts first: later no host may have room for them.
    chosen.sort(key=lambda p: -int(sites.entry_pool[p.entries, 1].sum()))
    for pattern in chosen:
        # A host may be short of room: take the first device with the least shortage.
        items = sites.entry_item[pattern.entries].tolist()
        if not free[pattern.cls]:
            continue
        d = min(free[pattern.cls], key=lambda d: _lost(packing, d, items))
        free[pattern.cls].remove(d)
        crowd = int(sites.entry_kappa[pattern.entries].max())
        option = int(sites.option_of[pattern.site, pattern.level, crowd])
        for item in items:
            if packing.fits(d, item, option, company=False):
                packing.add(d, item, option)
    return packing


def _lost(packing: Packing, d: int, items: Sequence[int]) -> float:
    """Return the host's shortage for all items on a device, in shares of the host's limits."""
    short = 0.0
    for p in packing.group(d).pools:
        pool = packing.instance.pools[p]
        drawn = sum(packing.instance.pool_use(pool, item) for item in items)
        short += max(0, packing.pool_used[p] + drawn - pool.capacity) / max(1, pool.capacity)
    return short
