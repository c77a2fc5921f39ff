"""The compiled search holds only what fits, and never ends with a worse plan."""

import dataclasses

import numpy as np
import pytest

from partitiond.core.model.spec import PlacementRules
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search import searching
from partitiond.planner.search.improve import Improver
from tests.planner.build import FREE, gpu, gpus, point, want


def searched(instance: Instance, *, by_cost: bool, steps: int = 2000, seed: int = 1) -> Improver:
    sites = build_sites(instance)
    improver = Improver(sites, usual_prices(sites), by_cost=by_cost, seed=seed)
    improver.start(None)
    run(improver, steps)
    return improver


def run(improver: Improver, steps: int) -> None:
    improver.run(0.0, steps=steps, halt=lambda: False)


@pytest.mark.parametrize("by_cost", [True, False])
def test_replicas_are_priced_by_their_worth_and_for_goodput_by_what_they_take_as_well(
    by_cost: bool,
) -> None:
    models = tuple(want(n, point(n, 5, size), rate=7) for n, size in (("a", 10), ("b", 40)))
    sites = build_sites(build_instance(PlanRequest((gpu("g0"),), models)))
    worth = np.arange(1.0, len(sites.entry_item) + 1)
    price = Improver(sites, worth, by_cost=by_cost, seed=1).price
    expected = worth if by_cost else np.sqrt(worth * usual_prices(sites))
    np.testing.assert_allclose(price, expected / expected.max())
    worth[0] = 1e-12
    lowest = Improver(sites, worth, by_cost=True, seed=1).price.min()
    assert lowest >= 1e-6, "lacking a replica is never next to nothing"


@pytest.mark.parametrize(("least", "told"), [(0, 5.0), (1, 5.0), (2, None)])
def test_a_plan_that_misses_least_numbers_is_told_to_nobody(least: int, told: float | None) -> None:
    """Else it would end the solve at a bound that no answer meets."""
    a = want("a", point("a", 5, 60), rate=5, min_replicas=least)
    request = PlanRequest((gpu(),), (a,), objective=Objective.MAX_GOODPUT)
    instance = build_instance(request)
    watch, prices = SolveMonitor(instance), usual_prices(build_sites(instance))
    watch.deadline = watch.began  # its first packing alone
    searching.search(watch, None, prices, by_cost=False)
    assert watch.value == told


def test_its_first_packing_has_all_least_numbers_before_any_model_gets_more() -> None:
    big = want("big", point("big", 10, 35), rate=20)
    small = want("small", point("small", 1, 35), rate=1, min_replicas=1)
    request = PlanRequest((gpu(),), (big, small), objective=Objective.MAX_GOODPUT)
    sites = build_sites(build_instance(request))
    improver = Improver(sites, usual_prices(sites), by_cost=False, seed=1)
    improver.start(None)
    assert improver.meets_least()


@pytest.mark.parametrize(("devices", "runs"), [(2, searching.RUNS), (201, 1)])
def test_the_least_cost_of_a_small_fleet_is_sought_from_several_beginnings(
    devices: int, runs: int
) -> None:
    """However long one search went on, it stayed near its first packing."""
    all_gpus = tuple(gpu(f"g{n}") for n in range(devices))
    model = want("a", point("a", 5, 60), rate=5)
    request = PlanRequest(all_gpus, (model,), time_limit_seconds=0.1, deterministic=True)
    instance = build_instance(request)
    watch, prices = SolveMonitor(instance), usual_prices(build_sites(instance))
    found = searching.search(watch, None, prices, by_cost=True)
    assert len(found) == runs


def test_it_finds_the_packing_that_a_greedy_one_misses_and_the_same_with_the_same_seed() -> None:
    # 50 + 30, 50 + 30, 40 + 40: largest first in any other pairing needs a fourth device.
    gibs = (50, 50, 40, 40, 30, 30)
    models = tuple(want(f"m{i}", point(f"m{i}", 5, g, sm=5), rate=5) for i, g in enumerate(gibs))
    instance = build_instance(PlanRequest(gpus(6), models, interference=FREE))
    one, other = (searched(instance, by_cost=True, steps=5000, seed=7) for _ in range(2))
    assert one.has_answer
    assert len(one.best().used()) == 3
    assert [*one.search.best.items] == [*other.search.best.items]


@pytest.mark.parametrize("by_cost", [True, False])
def test_models_near_one_another_make_room_together(by_cost: bool) -> None:
    """They are placed first, on the first host, and c may be on no other."""
    near = (
        want("a", point("a", 5, 30, sm=20), rate=5),
        want("b", point("b", 5, 30, sm=20), rate=5),
    )
    near = (near[0], dataclasses.replace(near[1], rules=PlacementRules(near=("a",))))
    last = want("c", point("c", 5, 70, sm=20), rate=5, rules=PlacementRules(only_on=("h0",)))
    hosts = tuple(gpu(f"g{n}", host=f"h{n}") for n in range(3))
    instance = build_instance(PlanRequest(hosts, (*near, last), interference=FREE))
    packing = searched(instance, by_cost=by_cost).best()
    assert not packing.lacking()
    assert len(packing.used()) == 2
