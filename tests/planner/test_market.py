"""No plan beats the bound for any problem, and the market's sets and plans are sound."""

import dataclasses
import functools
import math

import numpy as np
import pytest

from bench.planner.instances import NO_INTERFERENCE, request
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import bound_of
from partitiond.planner.market import demand, value
from partitiond.planner.market.choose import _placed, choose
from partitiond.planner.market.rounds import Columns
from partitiond.planner.market.value import HaltedError, MarketPrices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.packing import Packing
from tests.planner.build import gpu, point, want
from tests.planner.problems import is_bound, level_of, optimum, question, seeds, sites_of

COSTS = (Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MIN_ENERGY)
EVERY = (*COSTS, Objective.MAX_GOODPUT)


def run(sites: Sites, *, as_cost: bool) -> Columns:
    columns = Columns(sites, as_cost=as_cost)
    columns.run(math.inf, 400)
    return columns


@functools.cache
def benchmark(kind: str) -> Sites:
    return build_sites(build_instance(request(kind, 30, 16, 3, 10.0)))


@functools.cache
def priced(kind: str) -> Columns:
    """All rounds of a benchmark; nobody changes them."""
    return run(benchmark(kind), as_cost=kind == "slack")


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("seed", seeds(80))
def test_no_plan_is_better(seed: int, objective: Objective) -> None:
    asked = question(seed, objective, limited=seed % 2 == 1)
    sites = sites_of(asked)
    assert is_bound(asked, run(sites, as_cost=objective.is_cost).bound())
    assert is_bound(asked, bound_of(sites.instance, as_cost=objective.is_cost))


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("seed", seeds(40))
def test_no_plan_is_better_where_what_serves_little_of_a_demand_is_split(
    seed: int, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of replicas are limited in many of these problems, and cells are no replicas."""
    monkeypatch.setattr(demand, "FINE", 1.2)
    asked = question(100 + seed, objective)
    assert is_bound(asked, run(sites_of(asked), as_cost=objective.is_cost).bound())


@pytest.mark.parametrize("most", [33, 40, 300, 332, 400, None])
def test_the_largest_number_of_replicas_is_none_of_cells(most: int | None) -> None:
    """32.5 requests/s by replicas of 1, five on a device."""
    model = want("a", point("a", 1.0, 10, sm=20), rate=32.5, max_replicas=most)
    devices = tuple(gpu(f"g{n}") for n in range(10))
    for objective, best in ((Objective.MIN_DEVICES, 7), (Objective.MAX_GOODPUT, 32.5)):
        asked = PlanRequest(devices, (model,), objective=objective, interference=NO_INTERFERENCE)
        found = run(build_sites(build_instance(asked)), as_cost=objective.is_cost)
        assert found.bound() == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("least", [12, 30])
def test_the_least_number_of_replicas_is_none_of_cells(least: int) -> None:
    """All but two of them serve less than a cell."""
    sizes = point("a", 10_000.0, 30, sm=40), point("a", 1.0, 1, sm=1)
    model = want("a", *sizes, rate=20_000.0, min_replicas=least)
    asked = PlanRequest((gpu("a"), gpu("b")), (model,), interference=NO_INTERFERENCE)
    assert run(build_sites(build_instance(asked)), as_cost=True).bound() <= 1 + (least > 20)


@pytest.mark.parametrize("objective", [Objective.MIN_PRICE, Objective.MAX_GOODPUT])
@pytest.mark.parametrize("seed", seeds(40))
def test_any_prices_give_a_bound(seed: int, objective: Objective) -> None:
    asked, rng = question(seed, objective), np.random.default_rng(seed)
    market = Columns(sites_of(asked), as_cost=objective.is_cost).market
    for _ in range(5):
        knot = rng.exponential(1.0, len(market.demand.knot_rate)) * rng.choice([0.0, 0.3, 3.0])
        pool = rng.exponential(1.0, market.classes.pools) * rng.choice([0.0, 1.0])
        assert is_bound(asked, market.evaluate(MarketPrices(knot, pool)).bound)


def test_most_bounds_are_close_on_small_problems() -> None:
    """Not a proof of anything but that the bound is no triviality."""
    asked = [question(seed, Objective.MAX_GOODPUT) for seed in range(8)]
    bounds = [run(sites_of(one), as_cost=False).bound() for one in asked]
    close = [b <= 1.2 * (optimum(q) or 0) for q, b in zip(asked, bounds, strict=True)]
    assert sum(close) >= 6


def test_every_bound_on_the_way_is_told_and_they_get_better() -> None:
    told: list[float] = []
    columns = Columns(benchmark("slack"), as_cost=True, on_bound=told.append)
    columns.run(math.inf, 400)
    assert columns.converged
    assert told == sorted(told)
    assert columns.bound() == told[-1]


def test_a_passed_deadline_still_gives_a_bound() -> None:
    sites = benchmark("over")
    hasty = Columns(sites, as_cost=False)
    hasty.run(0.0, 400)
    assert hasty.rounds == 0
    assert priced("over").bound() <= hasty.bound() < math.inf


def test_work_limits_give_the_same_on_every_run() -> None:
    sites = benchmark("over")
    once, again = Columns(sites, as_cost=False), Columns(sites, as_cost=False)
    for columns in (once, again):
        columns.run(math.inf, 5)
    assert once.bound() == again.bound()


def test_who_is_asked_to_end_ends_in_the_middle_of_an_evaluation() -> None:
    looks: list[None] = []

    def halt() -> bool:
        looks.append(None)
        return True

    with pytest.raises(HaltedError):
        Columns(benchmark("over"), as_cost=False, halt=halt)
    assert len(looks) == 1


def test_patterns_are_sets_that_devices_hold() -> None:
    sites, columns = benchmark("slack"), priced("slack")
    assert columns.patterns
    for pattern in columns.patterns:
        own = level_of(sites, pattern.site, tuple(pattern.entries.tolist()))
        assert own is not None
        assert own <= pattern.level


@pytest.mark.parametrize("kind", ["over", "slack"])
def test_sets_of_a_round_serve_alike_devices_together(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_others = priced(kind)
    monkeypatch.setattr(value, "BESIDE", 0)
    one_each = run(benchmark(kind), as_cost=kind == "slack")
    assert with_others.converged
    assert with_others.bound() == pytest.approx(one_each.bound(), rel=1e-4)
    assert with_others.rounds < 0.5 * one_each.rounds


def test_a_solver_that_gives_up_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """GLOP loses its basis now and then; the rounds go on without one."""
    columns = Columns(benchmark("over"), as_cost=False)
    columns.run(math.inf, 5)
    once = Columns._once
    failures = iter([True])

    def fails_once(columns: Columns, seconds: float) -> object:
        return None if next(failures, False) else once(columns, seconds)

    monkeypatch.setattr(Columns, "_once", fails_once)
    columns.run(math.inf, 1)
    assert columns.rounds == 6


@pytest.mark.parametrize("kind", ["over", "slack"])
def test_a_plan_is_chosen_among_the_sets(kind: str) -> None:
    columns = priced(kind)
    packing = choose(columns.market, columns.patterns, None, seconds=math.inf, nodes=50)
    assert packing is not None
    if kind == "slack":
        assert not packing.lacking()
        assert columns.bound() <= packing.cost() <= columns.bound() + 3
    else:
        assert 0.9 * columns.bound() <= packing.goodput() <= columns.bound() + 1e-6


def test_a_plan_told_of_is_among_the_sets_chosen_from() -> None:
    sites, columns = benchmark("over"), priced("over")
    first = choose(columns.market, columns.patterns, None, seconds=math.inf, nodes=5)
    assert first is not None
    fresh = Columns(sites, as_cost=False)
    assert fresh.learn(first) > 0
    assert fresh.learn(first) == 0
    sets = fresh.patterns
    again = choose(fresh.market, sets, None, seconds=math.inf, nodes=50, hint=first)
    assert again is not None
    assert again.goodput() >= first.goodput() * (1 - 1e-9)


def test_sets_beyond_the_devices_of_a_class_are_left_out() -> None:
    sites, columns = benchmark("slack"), priced("slack")
    pattern = columns.patterns[0]
    alike = int(columns.market.classes.count[pattern.cls])
    packing = Packing(sites.instance)
    _placed(columns.market, [pattern], [alike + 1], packing)
    assert len(packing.used()) == alike


def test_alike_hosts_are_one_class() -> None:
    """Groups of every host apart, but as few rows as for one host, and the bound of all."""
    devices = tuple(
        gpu(f"g{h}-{i}", host=f"h{h}", price_per_hour=1.0) for h in range(6) for i in range(2)
    )
    models = tuple(
        want(f"m{i}", point(f"m{i}", 5, 30, sm=10, host_gib=10), rate=5) for i in range(9)
    )
    asked = PlanRequest(
        devices,
        models,
        objective=Objective.MIN_PRICE,
        host_memory_bytes=tuple((f"h{h}", 35 << 30) for h in range(6)),
        interference=NO_INTERFERENCE,
    )
    sites = build_sites(build_instance(asked))
    columns = run(sites, as_cost=True)
    assert len(sites.instance.groups) == 6
    assert columns.market.classes.count.tolist() == [12]
    assert columns.market.classes.pools == 1
    # Two replicas fit a device.
    assert columns.bound() == pytest.approx(5.0)
    # Nine of 10 GiB are more than the hosts have together.
    short = dataclasses.replace(
        asked, host_memory_bytes=tuple((f"h{h}", 14 << 30) for h in range(6))
    )
    assert math.isinf(run(build_sites(build_instance(short)), as_cost=True).bound())


@pytest.mark.parametrize(("gib", "least"), [(35, 6), (25, 6), (15, 2)])
def test_a_chosen_plan_takes_no_more_of_a_host_than_it_has(gib: int, least: int) -> None:
    """Pools of alike hosts are one pool of the choice, each host its own of the plan."""
    devices = tuple(gpu(f"g{h}-{i}", host=f"h{h}") for h in range(3) for i in range(2))
    models = tuple(
        want(f"m{i}", point(f"m{i}", 5, 30, sm=10, host_gib=10), rate=5) for i in range(6)
    )
    asked = PlanRequest(
        devices,
        models,
        objective=Objective.MAX_GOODPUT,
        host_memory_bytes=tuple((f"h{h}", gib << 30) for h in range(3)),
        interference=NO_INTERFERENCE,
    )
    columns = run(build_sites(build_instance(asked)), as_cost=False)
    packing = choose(columns.market, columns.patterns, None, seconds=math.inf, nodes=50)
    assert packing is not None
    # Two replicas for each host. Where each has room for one, there is enough for four together.
    assert sum(packing.counts.values()) >= least
    instance = packing.instance
    for pool in instance.pools:
        items = [instance.items[item] for b in pool.bins for item in packing.loads[b].items]
        taken = sum(it.cores if pool.kind == "cores" else it.host_bytes for it in items)
        assert taken <= pool.capacity


def test_more_than_the_devices_hold_is_proven_impossible() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 41, sm=10), rate=5) for i in range(3))
    devices = (gpu("a", price_per_hour=1.0), gpu("b", price_per_hour=1.0))
    sites = build_sites(build_instance(PlanRequest(devices, models)))
    assert bound_of(sites.instance, as_cost=True) is not None
    assert math.isinf(run(sites, as_cost=True).bound())


def test_without_models_or_devices_there_is_nothing_to_pay() -> None:
    sites = build_sites(build_instance(PlanRequest((gpu(),), ())))
    assert run(sites, as_cost=True).bound() == 0.0
    assert run(sites, as_cost=False).bound() == 0.0
