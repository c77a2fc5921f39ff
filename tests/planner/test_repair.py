"""Repair moves as little as possible of what runs, and never more than the budget."""

import collections
import dataclasses
import itertools
import math
import random
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.planner.instances import request as benchmark
from partitiond.core.plan.record import ModelDemand, Objective, Placement, Plan, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.kernels.anneal import count_gone
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.assign import applied
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.annealing import to_packing
from partitiond.planner.search.improve import Improver
from partitiond.planner.search.repair import completed, improved, kept, moves_of
from partitiond.planner.stop import Stop
from tests.planner.build import gpu, point, want

GPUS = tuple(gpu(f"g{i}") for i in range(4))


def plan(request: PlanRequest) -> Plan:
    """The plan of a request that has one."""
    answer = solve(request)
    assert isinstance(answer, Plan), answer
    return answer


def small(kind: str, seed: int = 1) -> tuple[PlanRequest, Plan]:
    """A benchmark instance that runs its first plan."""
    asked = benchmark(kind, 24, 16, seed, 1.0)
    return asked, plan(asked)


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


def allowed_moves(instance: Instance, repaired: Packing) -> int:
    """Of the running replicas those that left their device in the repair, and the budget."""
    share = instance.request.move_budget or 0.0
    return moves_of(instance, repaired) + math.floor(share * len(instance.request.running))


def test_the_repair_of_what_needs_none_is_what_runs() -> None:
    asked, runs = small("slack")
    instance = build_instance(dataclasses.replace(asked, running=runs.placements))
    repaired = repaired_of(instance)
    assert moves_of(instance, repaired) == 0
    assert applied(instance, repaired).kept.total() == len(runs.placements)


def test_a_repair_serves_everything_and_moves_nothing_that_can_stay() -> None:
    asked, runs = small("slack")
    now = dataclasses.replace(changed(asked, 3), running=runs.placements)
    instance = build_instance(now)
    repaired = repaired_of(instance)
    assert repaired.lacking() == []
    held = collections.Counter(p.model for p in runs.placements)
    for index, load in enumerate(repaired.loads):
        for item in load.items:
            held[instance.items[item].candidate.model] -= 1
            assert index < len(now.devices)
    # What left its device was not needed any more: no model lost a replica and got another.
    stopped = moves_of(instance, repaired)
    assert stopped == sum(n for n in held.values() if n > 0)


def test_what_was_on_a_dead_or_cordoned_device_is_placed_elsewhere() -> None:
    asked, runs = small("slack")
    name = runs.placements[0].device_id
    for devices in (
        tuple(d for d in asked.devices if d.id != name),
        tuple(dataclasses.replace(d, cordoned=d.id == name) for d in asked.devices),
    ):
        now = dataclasses.replace(asked, devices=devices, running=runs.placements, move_budget=0.0)
        made = plan(now)
        assert made.unplaced == ()
        assert name not in {p.device_id for p in made.placements}
        moved = {old.replica_id for old, _ in diff_plans(runs.placements, made.placements).move}
        assert moved <= {p.replica_id for p in runs.placements if p.device_id == name}


def test_improving_stays_within_the_moves_it_may_make() -> None:
    for kind in ("slack", "over"):
        asked, runs = small(kind)
        now = dataclasses.replace(
            changed(asked, 5), running=runs.placements, deterministic=True, move_budget=0.1
        )
        instance = build_instance(now)
        by_cost = kind == "slack"
        repaired = repaired_of(instance, by_cost=by_cost)
        allowed = allowed_moves(instance, repaired)
        worth = usual_prices(build_sites(instance))
        better = improved(
            SolveMonitor(instance), repaired, worth, most_moves=allowed, seconds=2, by_cost=by_cost
        )
        assert moves_of(instance, better) <= allowed
        assert _as_good(better, repaired)


def _as_good(one: Packing, other: Packing) -> bool:
    if one.instance.request.objective is Objective.MAX_GOODPUT:
        return one.goodput() >= other.goodput() - 1e-9
    return one.lacking() == [] and one.cost_units() <= other.cost_units()


def test_a_budget_lets_a_wasteful_plan_be_packed_tighter() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 18, sm=20), rate=4) for i in range(4))
    runs: tuple[Placement, ...] = ()
    for device, model in zip(GPUS, models, strict=True):
        runs += plan(PlanRequest((device,), (model,))).placements
    request = PlanRequest(GPUS, models, running=runs, time_limit_seconds=2)
    still = plan(dataclasses.replace(request, move_budget=0.0))
    assert still.certificate.value == 4
    assert diff_plans(runs, still.placements).is_empty
    free = plan(dataclasses.replace(request, move_budget=1.0))
    assert free.certificate.value == 1


def test_a_repair_that_cannot_serve_everything_leaves_it_to_a_fresh_plan() -> None:
    spread = tuple(want(f"s{i}", point(f"s{i}", 5, 30, sm=20), rate=4) for i in range(4))
    runs: tuple[Placement, ...] = ()
    for device, model in zip(GPUS, spread, strict=True):
        runs += plan(PlanRequest((device,), (model,))).placements
    large = tuple(want(f"l{i}", point(f"l{i}", 5, 70, sm=60), rate=4) for i in range(2))
    request = PlanRequest(GPUS, (*spread, *large), running=runs, move_budget=0.0)
    made = plan(dataclasses.replace(request, time_limit_seconds=3))
    assert made.unplaced == ()


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 10_000), st.sampled_from(("slack", "over")), st.floats(0, 0.3))
def test_no_plan_within_a_budget_moves_more(seed: int, kind: str, budget: float) -> None:
    asked = benchmark(kind, 8, 5, seed, 0.5)
    runs = plan(asked)
    now = dataclasses.replace(changed(asked, seed, 0.3), running=runs.placements)
    instance = build_instance(dataclasses.replace(now, move_budget=budget))
    repaired = repaired_of(instance, by_cost=kind == "slack")
    made = plan(dataclasses.replace(now, move_budget=budget))
    if repaired.lacking() and kind == "slack":
        return
    diff = diff_plans(runs.placements, made.placements)
    assert len(diff.move) + len(diff.stop) <= allowed_moves(instance, repaired)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 10_000), st.integers(0, 2_000))
def test_the_compiled_search_counts_moves_as_the_plan_does(seed: int, steps: int) -> None:
    asked = benchmark("slack", 10, 6, seed, 0.5)
    runs = plan(asked)
    now = dataclasses.replace(changed(asked, seed, 0.5), running=runs.placements)
    instance = build_instance(now)
    repaired = repaired_of(instance)
    if repaired.lacking():
        return
    there = [(index, item) for index, item, _ in staying_items(instance)]
    most = len(runs.placements)
    sites = build_sites(instance)
    search = Improver(sites, usual_prices(sites), by_cost=True, seed=1, runs=there, most_gone=most)
    search.start(repaired)
    search.run(0.0, steps=steps, halt=lambda: False)
    now_at = to_packing(search.sites, search.state)
    assert count_gone(search.state, search.here) == moves_of(instance, now_at)


def test_what_is_new_goes_to_the_fuller_device() -> None:
    big = want("big", point("big", 5, 50, sm=20), rate=4)
    half = want("half", point("half", 5, 30, sm=60), rate=9)
    tiny = want("tiny", point("tiny", 5, 8, sm=10), rate=4)
    made = plan(PlanRequest(GPUS, (big, half, tiny), time_limit_seconds=2))
    free = {d.id: sum(p.candidate.memory_bytes for p in made.on_device(d.id)) for d in GPUS}
    used = sorted(n for n in free.values() if n)
    assert len(used) == 2
    # 118 GiB on two devices of 80: the pieces are as unequal as the models allow.
    assert used[0] <= 38 * 2**30


def test_what_runs_stays_though_it_would_fit_beside_what_else_runs() -> None:
    tiny = want("tiny", point("tiny", 5, 8, sm=10), rate=4)
    big = want("big", point("big", 5, 50, sm=20), rate=4)
    runs = plan(PlanRequest(GPUS[:1], (tiny,))).placements
    runs += plan(PlanRequest(GPUS[1:2], (big,))).placements
    again = plan(PlanRequest(GPUS, (tiny, big), running=runs, move_budget=0.0))
    assert diff_plans(runs, again.placements).is_empty


def test_for_goodput_the_search_goes_on_where_the_time_for_completing_ends() -> None:
    asked, first = small("over")
    lost = {p.device_id for p in first.placements[:3]}
    running = tuple(p for p in first.placements if p.device_id not in lost)
    instance = build_instance(dataclasses.replace(asked, running=running))
    worth = usual_prices(build_sites(instance))
    late = SolveMonitor(instance)
    late.deadline = time.monotonic() - 1.0
    (hasty,), _ = kept(late, worth, by_cost=False, searches=lambda: False)
    assert sum(hasty.packing.counts.values()) <= len(running)
    (whole,), _ = kept(SolveMonitor(instance), worth, by_cost=False, searches=lambda: False)
    assert sum(whole.packing.counts.values()) > len(running)


def test_completing_asks_during_a_look_for_a_place_and_has_less_than_half_of_the_time() -> None:
    asked, first = small("over")
    lost = {p.device_id for p in first.placements[:3]}
    running = tuple(p for p in first.placements if p.device_id not in lost)
    instance = build_instance(dataclasses.replace(asked, running=running))
    worth = usual_prices(build_sites(instance))
    refused = sum(need.rated for need in instance.needs)
    calls = itertools.count()
    whole = completed(instance, worth, by_cost=False, stop=lambda: next(calls) < 0)
    placed = sum(whole.counts.values()) - len(running)
    # One question for each replica that is placed and each model that is refused, and more.
    assert next(calls) > placed + refused

    shares = list[float]()

    class Shares(SolveMonitor):
        def within(self, share: float) -> Stop:
            shares.append(share)
            return super().within(share)

    kept(Shares(instance), worth, by_cost=False, searches=lambda: False)
    assert shares
    assert max(shares) < 0.5
