"""The compiled search holds only what fits, and never ends with a worse plan."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import bound_of, usual_prices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import Instance, PlanRequest
from partitiond.planner.pack.packing import Packing
from partitiond.planner.search.improve import Improver
from tests.planner.build import FREE, cpu, gpu, gpus, on_cores, point, want


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
    price = Improver(sites, worth, by_cost=by_cost, seed=1).data.price
    expected = worth if by_cost else np.sqrt(worth * usual_prices(sites))
    np.testing.assert_allclose(price, expected / expected.max())


def test_no_replica_is_priced_so_low_that_lacking_it_passes_for_nothing() -> None:
    models = tuple(want(n, point(n, 5, 10), rate=7) for n in "ab")
    sites = build_sites(build_instance(PlanRequest((gpu("g0"),), models)))
    worth = np.ones(len(sites.entry_item))
    worth[0] = 1e-12
    assert Improver(sites, worth, by_cost=True, seed=1).data.price.min() >= 1e-6


def rebuilt(packing: Packing) -> Packing:
    """The same, every replica asked for by the packing's own rules."""
    fresh = Packing(packing.instance)
    for index, load in enumerate(packing.loads):
        for item in load.items:
            assert load.option is not None
            assert fresh.fits(index, item, load.option)
            fresh.add(index, item, load.option)
    return fresh


sizes = st.tuples(
    st.integers(1, 40), st.integers(1, 12), st.integers(1, 8), st.floats(0.05, 0.9)
)  # memory, SM steps, rate, load
asked = st.tuples(
    st.lists(sizes, min_size=1, max_size=3, unique=True),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(2, 5)),
)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    models = []
    for name, (points, rate, least, most) in enumerate(
        draw(st.lists(asked, min_size=1, max_size=6))
    ):
        candidates = [
            point(f"m{name}", r, gib, sm=5 * sm if kind else 0, busy=busy, batch=b)
            for b, (gib, sm, r, busy) in enumerate(points, 1)
            for kind in (True, False)
        ]
        candidates += [on_cores(f"m{name}", 1 + r, 1, gib=2, batch=9) for _, _, r, _ in points[:1]]
        others = [f"m{i}" for i in range(name)]
        avoid = draw(st.lists(st.sampled_from(others), max_size=1)) if others else []
        models.append(
            want(
                f"m{name}",
                *candidates,
                rate=rate,
                min_replicas=least,
                max_replicas=most,
                rules=PlacementRules(avoid=tuple(avoid)),
            )
        )
    devices = [gpu(f"g{i}", cores=tuple(range(4))) for i in range(draw(st.integers(1, 4)))]
    cut = (SharingMode.MIG, SharingMode.MPS)
    devices += [gpu(f"x{i}", modes=cut) for i in range(draw(st.integers(0, 1)))]
    devices += [cpu(4)] if draw(st.booleans()) else []
    objective = draw(st.sampled_from([Objective.MAX_GOODPUT, Objective.MIN_DEVICES]))
    return build_instance(PlanRequest(tuple(devices), tuple(models), objective=objective))


@given(instances(), st.integers(0, 5))
@settings(max_examples=150)
def test_whatever_it_holds_fits_by_the_packings_own_rules(instance: Instance, seed: int) -> None:
    by_cost = instance.request.objective.is_cost
    if not instance.needs or (by_cost and bound_of(instance, as_cost=True) is None):
        return
    improver = searched(instance, by_cost=by_cost, steps=300, seed=seed)
    if not improver.found:
        return
    packing = improver.best()
    again = rebuilt(packing)
    assert again.rates == packing.rates
    for need in instance.needs:
        assert packing.counts[need.model] <= need.max_replicas
    if by_cost:
        assert not again.lacking()
        assert math.isclose(improver.value(), again.cost())
    else:
        assert math.isclose(improver.value(), again.goodput(), abs_tol=1e-6)


@given(instances())
@settings(max_examples=60)
def test_it_never_ends_worse_than_it_began(instance: Instance) -> None:
    if not instance.needs or instance.request.objective.is_cost:
        return
    improver = searched(instance, by_cost=False, steps=0)
    first, short = improver.best().goodput(), improver.best().short_replicas()
    run(improver, 500)
    assert improver.best().short_replicas() <= short
    if improver.best().short_replicas() == short:
        assert improver.best().goodput() >= first - 1e-9


def test_it_finds_the_packing_that_a_greedy_one_misses() -> None:
    # 50 + 30, 50 + 30, 40 + 40: largest first in any other pairing needs a fourth device.
    gibs = (50, 50, 40, 40, 30, 30)
    models = tuple(want(f"m{i}", point(f"m{i}", 5, g, sm=5), rate=5) for i, g in enumerate(gibs))
    devices = gpus(6)
    instance = build_instance(PlanRequest(devices, models, interference=FREE))
    improver = searched(instance, by_cost=True, steps=5000)
    assert improver.found
    assert len(improver.best().used()) == 3


def test_the_same_seed_gives_the_same_answer() -> None:
    models = tuple(
        want(f"m{i}", point(f"m{i}", 3, 11 + i, sm=15), point(f"m{i}", 5, 19 + i, sm=25), rate=20)
        for i in range(12)
    )
    request = PlanRequest(gpus(6), models)
    instance = build_instance(request)
    one, other = (searched(instance, by_cost=False, steps=3000, seed=7) for _ in range(2))
    assert np.array_equal(one.best_state.items, other.best_state.items)


def test_models_that_have_to_be_near_others_stay_where_they_are() -> None:
    models = (
        want("a", point("a", 5, 20, sm=20), rate=5, rules=PlacementRules(near=("b",))),
        want("b", point("b", 5, 20, sm=20), rate=5),
        want("c", point("c", 5, 20, sm=20), rate=10),
    )
    instance = build_instance(PlanRequest((gpu("g0"), gpu("g1")), models, interference=FREE))
    start = Packing(instance)
    option = next(k for k, o in enumerate(instance.groups[0].options) if o.mode is SharingMode.MPS)
    by_model = {item.model: item.index for item in instance.items}
    for model in (0, 1):
        start.add(1, by_model[model], option)
    sites = build_sites(instance)
    improver = Improver(sites, usual_prices(sites), by_cost=True, seed=1)
    improver.start(start)
    run(improver, 2000)
    assert improver.found
    packing = improver.best()
    assert {by_model[0], by_model[1]} <= set(packing.loads[1].items)
    assert not packing.lacking()


def test_enough_is_left_when_a_host_is_lost() -> None:
    rules = PlacementRules(survive=FaultDomain.HOST, survive_share=0.5)
    models = (
        want("a", point("a", 5, 20, sm=20), rate=10, rules=rules),
        want("b", point("b", 5, 30, sm=30), rate=5),
    )
    devices = tuple(gpu(f"g{n}", host=f"h{n // 2}") for n in range(4))
    instance = build_instance(PlanRequest(devices, models, interference=FREE))
    improver = searched(instance, by_cost=True, steps=2000)
    assert improver.found
    packing = improver.best()
    assert packing.lacking() == []
    assert len(packing.used()) == 2


def test_a_replica_that_slows_others_down_is_worth_what_all_gain_together() -> None:
    """Two alone serve 20, both on one device 2 x 10 / 1.5: with one device the first is enough."""
    levels = Interference((1.0, 1.5, 2.5), (1.0, 1.5, 2.5), 0.0, 0.0, 0.0)
    models = (
        want("a", point("a", 10, 20, sm=20, busy=0.75), rate=10),
        want("b", point("b", 1, 20, sm=20, busy=0.75), rate=1),
    )
    instance = build_instance(
        PlanRequest((gpu(),), models, objective=Objective.MAX_GOODPUT, interference=levels)
    )
    packing = searched(instance, by_cost=False).best()
    assert packing.goodput() == 10
    assert [len(load.items) for load in packing.loads] == [1]
