"""The largest common factor where places are too many to list."""

import dataclasses
import time

import numpy as np
import pytest

from bench.planner.shipped import request
from partitiond.core.plan import Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.instance import build_instance
from partitiond.planner.market.factor import Factor
from partitiond.planner.packing import Packing
from partitiond.planner.scale import factor_of, scaled, targets_of
from partitiond.planner.sites import Sites, build_sites
from partitiond.planner.vast_scale import bound_of, rest
from tests.planner.problems import random_sites, states

SCALES = (Objective.MAX_MIN, Objective.MAX_HEADROOM)


def never() -> bool:
    return False


def best_factor(sites: Sites) -> float:
    """By trying everything; rates beyond a demand do not count."""
    target = targets_of(sites.instance)
    found = 0.0
    for rates, counts, _ in states(sites):
        if all(c >= n for c, n in zip(counts, sites.need_min, strict=True)):
            shares = (
                rate / target[n.model]
                for rate, n in zip(rates, sites.instance.needs, strict=True)
                if n.model in target
            )
            found = max(found, min(shares, default=0.0))
    return found


@pytest.mark.parametrize("seed", range(80))
def test_no_plan_has_a_larger_factor(seed: int) -> None:
    sites = random_sites(seed, Objective.MAX_MIN)
    instance, target = sites.instance, targets_of(sites.instance)
    best = best_factor(sites)
    bound = bound_of(instance, target, never)
    assert bound < 0 or bound >= best * (1 - 1e-9)
    if bound <= 0:
        assert best == 0
        return
    found = Factor(build_sites(scaled(instance, target, max(best, 1e-6) * 1.1)), target)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        pools = found.market.classes.pools
        found.evaluate(rng.exponential(1.0, len(found.target)), rng.exponential(0.3, pools))
        assert found.bound >= best * (1 - 1e-7)


def test_rounds_come_closer() -> None:
    asked = dataclasses.replace(request("over", 20, 14, 1, 2.0), objective=Objective.MAX_MIN)
    instance = build_instance(asked)
    target = targets_of(instance)
    found = Factor(build_sites(scaled(instance, target, 3.0)), target)
    first = found.bound
    found.run(time.monotonic() + 60, 100)
    assert found.converged
    assert found.bound < 0.98 * first


@pytest.mark.parametrize("objective", SCALES)
def test_a_plan_of_a_vast_fleet_has_a_share_for_everybody(objective: Objective) -> None:
    asked = dataclasses.replace(request("over", 20, 14, 1, 2.0), objective=objective)
    plan = solve(asked)
    assert isinstance(plan, Plan)
    assert plan.certificate.objective is objective
    assert 0.3 * plan.certificate.bound < plan.certificate.value <= plan.certificate.bound
    assert {p.model for p in plan.placements} == {m.model for m in asked.models}


def test_what_is_left_is_given_away_and_nobody_falls_below() -> None:
    asked = dataclasses.replace(request("over", 20, 14, 1, 2.0), objective=Objective.MAX_MIN)
    instance = build_instance(asked)
    target = targets_of(instance)
    low = scaled(instance, target, 0.05)
    packing = rest(low, target, Packing(low), 60.0, never)
    assert not packing.lacking()
    more = rest(instance, target, packing, 5.0, never)
    assert more.goodput() > packing.goodput()
    assert factor_of(more, target) >= factor_of(packing, target) * (1 - 1e-6)
