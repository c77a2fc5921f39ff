"""What is chosen of all contents of devices is the best plan there is."""

import dataclasses
import itertools
import math
import random
from fractions import Fraction
from typing import Final

import numpy as np
import pytest

from partitiond.core.plan.record import ModelDemand, Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.columns import best_choice, search
from partitiond.planner.columns.best_choice import BestChoice
from partitiond.planner.columns.bound import safe_bound
from partitiond.planner.columns.fleet import ColumnProblem
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.columns.search import packed, plan_by_columns
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.members import Member
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.stop import Stop, never
from tests.planner.build import gpus, point, want
from tests.planner.problems import (
    is_bound,
    level_of,
    optimum,
    question,
    request_of,
    seeds,
    sets_of,
    sites_of,
)

SLACK: Final = Fraction(1, 1_000_000)


def _simple(sites: Sites) -> bool:
    """Whether contents of devices are all that a plan is bound by."""
    instance = sites.instance
    most = min(need.max_replicas for need in instance.needs)
    return not (instance.pools or instance.ties.near or most < 100)


def _choice(sites: Sites, seed: int | None = None, stop: Stop = never) -> BestChoice:
    """At random prices, of which some are 0; else at those of demands that nothing serves."""
    fleet, rng = ColumnProblem(sites), np.random.default_rng(seed)
    none = np.zeros(len(fleet.worth))
    served = fleet.worth * rng.uniform(0, 1.5, len(none)) * rng.choice([0.0, 1.0, 1.0], len(none))
    served = fleet.worth if seed is None else served
    least = np.where(fleet.least > 0, rng.choice([0.0, 0.1 * float(fleet.worth.max())]), 0.0)
    no_device, no_pool = np.zeros(len(fleet.classes.count)), np.zeros(fleet.classes.pools)
    return BestChoice(fleet, RowPrices(served, least, none, no_device, no_pool), stop)


@pytest.mark.parametrize("seed", seeds(150, 20))
def test_the_best_choice_is_the_best_plan_at_any_prices(seed: int) -> None:
    asked = question(seed, Objective.MAX_GOODPUT)
    sites, most = sites_of(asked), optimum(asked, full=True)
    if not ColumnProblem(sites).worth.any():
        return
    choice = _choice(sites, seed)
    found = choice.within(choice.bound + 1.0)
    assert found is not None
    lost, plan = found
    if most is None:
        assert not (plan and _simple(sites))
        return
    assert is_bound(asked, choice.bound_beyond(lost), full=True)
    if _simple(sites):
        loose = optimum(dataclasses.replace(asked, slack=SLACK), full=True)
        assert loose is not None
        assert choice.bound - lost <= loose * (1 + 1e-9) + 1e-9
        assert packed(choice.fleet, plan).goodput() == pytest.approx(choice.bound - lost)
    # Less than what is lost is nothing's margin, and hardly more than it is the plan's.
    assert choice.within(lost) == (lost, [])
    closely = choice.within(lost * (1 + 1e-9) + 1e-9)
    assert closely is not None
    assert closely[0] == pytest.approx(lost, abs=1e-9)


def _after(calls: int) -> Stop:
    """A stop that is asked so often before it ends the search."""
    asked = itertools.count()
    return lambda: next(asked) >= calls


def test_what_is_stopped_or_cut_short_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = sites_of(question(60, Objective.MAX_GOODPUT))
    whole = _choice(sites, 7)
    all_of_it = whole.within(whole.bound + 1.0)
    assert all_of_it is not None
    outcomes = set[tuple[bool, bool]]()
    for calls in range(200):
        choice = _choice(sites, 7, _after(calls))
        assert choice.bound in (whole.bound, math.inf)
        found = choice.within(whole.bound + 1.0)
        assert found is None or found[0] == all_of_it[0]
        outcomes.add((choice.bound == math.inf, found is None))
    assert outcomes == {(True, True), (False, True), (False, False)}
    asked_of = PlanRequest(gpus(1), tuple(want(n, point(n, 4.0, 12), rate=8.0) for n in "abc"))
    choice = _choice(build_sites(build_instance(asked_of)), 7)
    assert choice.within(choice.bound) is not None
    monkeypatch.setattr(best_choice, "MOST_NODES", 1)
    assert choice.within(choice.bound) is None


def test_a_bound_is_larger_by_what_floats_may_lose() -> None:
    fleet = _choice(sites_of(question(60, Objective.MAX_GOODPUT))).fleet
    none = np.zeros(len(fleet.worth))
    free = RowPrices(none, none, none, np.zeros(0), np.zeros(0))
    sums = 1e-15 * len(none) * float(fleet.worth.sum())
    assert safe_bound(fleet, free, 0.0) == pytest.approx(sums, rel=1e-6)
    assert safe_bound(fleet, free, 1.0) - 1.0 == pytest.approx(1e-10 + sums, rel=1e-4)


def test_two_devices_may_hold_the_same() -> None:
    asked = PlanRequest(gpus(2), (want("a", point("a", 4.0, 60), rate=8.0),))
    choice = _choice(build_sites(build_instance(asked)))
    found = choice.within(choice.bound + 1.0)
    assert found is not None
    assert choice.bound - found[0] == pytest.approx(8.0)


def test_one_device_may_lose_all_that_the_best_plan_loses() -> None:
    """At half of its price, 4 requests/s are worth less than the 3 of the other."""
    models = (want("a", point("a", 4.0, 60), rate=4.0), want("b", point("b", 3.0, 60), rate=3.0))
    fleet = ColumnProblem(build_sites(build_instance(PlanRequest(gpus(1), models))))
    half, none = np.where(fleet.worth > 3.5, 2.0, 3.0), np.zeros(2)
    choice = BestChoice(fleet, RowPrices(half, none, none, np.zeros(1), np.zeros(0)), lambda: False)
    assert choice.bound == pytest.approx(2.0 + 3.0)
    found = choice.within(1.01)
    assert found is not None
    assert found[0] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(8))
def test_demands_that_are_hardly_served_are_no_rounding(seed: int) -> None:
    """Each is a billion times what a replica serves, and some replicas serve hardly more."""
    rng = random.Random(seed)
    models = list[ModelDemand]()
    for name in "abc":
        rate, gib = rng.uniform(1e-4, 1e-3), rng.randint(14, 30)
        more = dataclasses.replace(point(name, 1.0003 * rate, gib + 2), profile_id=f"{name} more")
        models.append(want(name, point(name, rate, gib), more, rate=1e6))
    asked = PlanRequest(gpus(2), tuple(models), objective=Objective.MAX_GOODPUT)
    choice = _choice(build_sites(build_instance(asked)))
    sites, part = choice.fleet.sites, choice.fleet.part
    most = max(
        sum(1e6 * part[e, level_of(sites, site, one)] for e in one)
        for site in range(len(sites.site_class)) for one in sets_of(sites, site)
    )  # fmt: skip
    found = choice.within(choice.bound * (1 + 1e-9))
    assert found is not None
    assert choice.bound - found[0] == pytest.approx(2 * most, rel=1e-9)


def _searched(asked: PlanRequest) -> tuple[SolveMonitor, Member]:
    instance = build_instance(asked)
    watch = SolveMonitor(instance)
    watch.restart(Objective.MAX_GOODPUT)
    sites = build_sites(instance)
    improver = Improver(sites, usual_prices(sites), by_cost=False, seed=1)
    made, _ = plan_by_columns(watch, improver.completed)
    return watch, made


@pytest.mark.parametrize("seed", [60, 101, 174, 192])
def test_plans_of_few_devices_are_proven(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dive's plan of these is not the best, or the prices don't prove it."""
    monkeypatch.setattr(search, "COMPILED", True)
    asked = question(seed, Objective.MAX_GOODPUT, limited=seed % 2 == 1)
    watch, made = _searched(request_of(asked, deterministic=False))
    assert watch.done
    assert made.packing.goodput() == pytest.approx(watch.value)
    assert is_bound(asked, watch.bound, full=True)


def test_a_choice_without_room_on_its_host_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "COMPILED", True)
    models = (
        want("a", point("a", 4.3, 60, host_gib=10), rate=8.6),
        want("b", point("b", 2.3, 36, host_gib=3), rate=4.6),
        want("c", point("c", 4.0, 55), rate=4.0),
    )
    host, goodput = (("host", 17 * 2**30),), Objective.MAX_GOODPUT
    asked = PlanRequest(gpus(2), models, objective=goodput, host_memory_bytes=host)
    watch, made = _searched(asked)
    assert not watch.done
    assert made.packing.goodput() == watch.value == pytest.approx(4.3 + 4.6 / 1.1)
