"""No plan beats the bound for any problem, and the market's sets and plans are sound."""

import functools
import math

import pytest

from bench.planner.instances import NO_INTERFERENCE, request
from partitiond.core.plan.record import Objective
from partitiond.planner.market import value
from partitiond.planner.market.choose import _placed, choose
from partitiond.planner.market.rounds import Columns
from partitiond.planner.market.value import HaltedError
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.packing import Packing
from tests.planner.build import gpu, point, want
from tests.planner.problems import level_of


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


def on_hosts(
    hosts: int, models: int, host_gib: int, *, objective: Objective = Objective.MIN_PRICE
) -> Columns:
    """Hosts of two GPUs each; of each model a replica, of which two fit a GPU, takes 10 GiB."""
    request = PlanRequest(
        tuple(gpu(f"g{h}-{i}", host=f"h{h}") for h in range(hosts) for i in range(2)),
        tuple(
            want(f"m{i}", point(f"m{i}", 5, 30, sm=10, host_gib=10), rate=5) for i in range(models)
        ),
        objective=objective,
        host_memory_bytes=tuple((f"h{h}", host_gib << 30) for h in range(hosts)),
        interference=NO_INTERFERENCE,
    )
    return run(build_sites(build_instance(request)), as_cost=objective.is_cost)


def test_alike_hosts_are_one_class() -> None:
    """Groups of every host apart, but as few rows as for one host, and the bound of all."""
    columns = on_hosts(6, 9, 35)
    assert len(columns.market.demand.sites.instance.groups) == 6
    assert columns.market.classes.count.tolist() == [12]
    assert columns.market.classes.pools == 1
    assert columns.bound() == pytest.approx(5.0)
    assert math.isinf(on_hosts(6, 9, 14).bound()), "nine are more than the hosts have together"


@pytest.mark.parametrize(("gib", "least"), [(35, 6), (25, 6), (15, 2)])
def test_a_chosen_plan_takes_no_more_of_a_host_than_it_has(gib: int, least: int) -> None:
    """Pools of alike hosts are one pool of the choice, each host its own of the plan."""
    columns = on_hosts(3, 6, gib, objective=Objective.MAX_GOODPUT)
    packing = choose(columns.market, columns.patterns, None, seconds=math.inf, nodes=50)
    assert packing is not None
    # Two replicas for each host. Where each has room for one, there is enough for four together.
    assert sum(packing.counts.values()) >= least
    instance = packing.instance
    for pool in instance.pools:
        items = [instance.items[item] for b in pool.bins for item in packing.loads[b].items]
        taken = sum(it.cores if pool.kind == "cores" else it.host_bytes for it in items)
        assert taken <= pool.capacity
