"""Repair moves as little as possible of what runs."""

import dataclasses
import itertools
import random
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.planner.shipped import request as benchmark
from partitiond.core.plan.record import ModelDemand, Placement
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import assign
from partitiond.planner.pack.moves import moves_of
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.annealing import to_packing
from partitiond.planner.search.improve import Improver
from partitiond.planner.search.repair import completed, kept
from partitiond.planner.stop import Stop
from tests.planner.build import gpu

GPUS = tuple(gpu(f"g{i}") for i in range(4))


def greedy(asked: PlanRequest) -> tuple[Placement, ...]:
    """A plan of a benchmark's instance, made without a search."""
    instance, by_cost = build_instance(asked), asked.objective.is_cost
    sites = build_sites(instance)
    search = Improver(sites, usual_prices(sites), by_cost=by_cost, seed=1)
    return assign(instance, search.completed(Packing(instance)))


def changed(asked: PlanRequest, seed: int, share: float = 0.2) -> PlanRequest:
    """The same with other demands for some models."""
    rng = random.Random(seed)

    def other(m: ModelDemand) -> ModelDemand:
        if rng.random() > share:
            return m
        rate = (m.demand.req_per_s or 1.0) * rng.uniform(0.5, 1.5)
        return dataclasses.replace(m, demand=dataclasses.replace(m.demand, req_per_s=rate))

    return dataclasses.replace(asked, models=tuple(other(m) for m in asked.models))


def repaired_of(instance: Instance, *, by_cost: bool = True) -> Packing:
    """What runs, completed."""
    return completed(instance, usual_prices(build_sites(instance)), by_cost=by_cost)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 10_000), st.integers(0, 400))
def test_the_compiled_search_counts_moves_as_the_plan_does(seed: int, steps: int) -> None:
    asked = benchmark("slack", 6, 4, seed, 0.5)
    runs = greedy(asked)
    now = dataclasses.replace(changed(asked, seed, 0.5), running=runs)
    instance = build_instance(now)
    repaired = repaired_of(instance)
    if repaired.lacking():
        return
    there = [(index, item) for index, item, _ in staying_items(instance)]
    most = len(runs)
    sites = build_sites(instance)
    search = Improver(sites, usual_prices(sites), by_cost=True, seed=1, runs=there, most_gone=most)
    search.start(repaired)
    search.run(0.0, steps=steps, halt=lambda: False)
    now_at = to_packing(search.sites, search.search.state)
    assert search.search.count_gone() == moves_of(instance, now_at)


def test_for_goodput_completing_asks_often_and_leaves_most_of_the_time_to_the_search() -> None:
    """It asks for each replica that is placed, each model that is refused, and more."""
    asked = benchmark("over", 8, 6, 1, 1.0)
    first = greedy(asked)
    running = tuple(p for p in first if p.device_id != first[0].device_id)
    instance = build_instance(dataclasses.replace(asked, running=running))
    worth = usual_prices(build_sites(instance))
    calls = itertools.count()
    whole = completed(instance, worth, by_cost=False, stop=lambda: next(calls) < 0)
    placed = sum(whole.counts.values()) - len(running)
    assert next(calls) > placed + sum(need.rated for need in instance.needs)
    shares = list[float]()

    class Shares(SolveMonitor):
        def within(self, share: float) -> Stop:
            shares.append(share)
            return super().within(share)

    late = SolveMonitor(instance)
    late.deadline = late.began - 1.0
    found = list[int]()
    for watch in (late, Shares(instance)):
        (one,) = kept(watch, worth, by_cost=False, searches=False)
        found.append(sum(one.packing.counts.values()))
    assert found[0] <= len(running) < found[1], "where time is up nothing is added"
    assert 0 < max(shares) < 0.5


def test_no_clock_ends_the_first_plan_of_the_least_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = benchmark("slack", 8, 6, 1, 1.0)
    running = greedy(asked)[1:]
    instance = build_instance(dataclasses.replace(asked, running=running))
    worth, seconds = usual_prices(build_sites(instance)), itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("partitiond.planner.progress.watch.time", clock)
    assert kept(SolveMonitor(instance), worth, by_cost=True, searches=False)
