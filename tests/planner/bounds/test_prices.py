"""The bound from prices holds by hand, at any prices, and against brute force."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.planner.instances import request
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Objective
from partitiond.core.units import GIB, Bytes
from partitiond.planner.bounds.placements_lp import Pours, make_pours
from partitiond.planner.bounds.prices import (
    Duals,
    bound_of,
    cheapest_covers,
    cost_bound,
    goodput_bound,
    linear_prices,
    most_gains,
    solve_sampled,
)
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Floats, Ints, build_sites
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import FREE, gpu, gpus, point, want
from tests.planner.problems import is_bound, level_of, question, seeds, sets_of, sites_of

CROWDED = Interference((1.0, 1.5, 2.0), (1.0, 1.5, 2.0), 0.25, 0.25, 0.0)
COSTS = (Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MIN_ENERGY)
EVERY = (*COSTS, Objective.MAX_GOODPUT)


def bound(asked: PlanRequest) -> float | None:
    """For the request's objective."""
    return bound_of(build_instance(asked), as_cost=asked.objective.is_cost)


def test_memory_bounds_the_devices() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 30, sm=10), rate=5) for i in range(8))
    assert bound(PlanRequest(gpus(8), models, interference=FREE)) == 3


@pytest.mark.parametrize(("percent", "devices"), [(25, 2), (30, 3), (50, 4)])
def test_sm_percents_bound_the_devices(percent: int, devices: int) -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 1, sm=percent), rate=5) for i in range(8))
    assert bound(PlanRequest(gpus(8), models, interference=FREE)) == devices


@pytest.mark.parametrize(("busy", "devices"), [(0.1, 2), (0.5, 3), (1.0, 5)])
def test_load_bounds_the_devices_at_the_highest_level(busy: float, devices: int) -> None:
    """Of n replicas with load b, (b + 0.25) n is at most 2.25; at level 2 they give half."""
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 1, busy=busy), rate=2.5) for i in range(8))
    assert bound(PlanRequest(gpus(8), models, interference=CROWDED)) == devices


@pytest.mark.parametrize(("host_gib", "devices"), [(0, 1), (12, None)])
def test_what_hosts_share_bounds_what_is_served(host_gib: int, devices: int | None) -> None:
    """Three replicas on a host with memory for two of them."""
    models = tuple(
        want(f"m{i}", point(f"m{i}", 5, 1, sm=10, host_gib=host_gib), rate=5) for i in range(3)
    )
    asked = PlanRequest(gpus(2), models, interference=FREE, host_memory_bytes=(("host", 24 * GIB),))
    assert bound(asked) == devices
    goodput = dataclasses.replace(asked, objective=Objective.MAX_GOODPUT)
    assert bound(goodput) == pytest.approx(10 if host_gib else 15)


def test_demand_beyond_all_devices_is_proven_impossible() -> None:
    model = want("a", point("a", 5, 30, sm=50), rate=11)
    assert bound(PlanRequest((gpu(),), (model,))) is None


@pytest.mark.parametrize(
    ("wanted", "served"), [(4.0, True), (4.0 * (1 + 1e-6), False), (4.1, False)]
)
def test_that_not_all_can_be_served_is_proven_by_prices(wanted: float, served: bool) -> None:
    """Of whole replicas, which four are the most of."""
    model = want("a", point("a", 1.0, 40, sm=50), rate=wanted)
    assert (bound(PlanRequest(gpus(2), (model,), interference=FREE)) is not None) == served


@pytest.mark.parametrize(("least", "served"), [(2, True), (3, False)])
def test_that_least_numbers_cannot_be_met_is_proven_by_prices(least: int, served: bool) -> None:
    """Three models of which a replica is enough but for that; four devices have eight places."""
    models = tuple(
        want(f"m{n}", point(f"m{n}", 1.0, 40, sm=50), rate=0.5, min_replicas=least)
        for n in range(3)
    )
    assert (bound(PlanRequest(gpus(4), models, interference=FREE)) is not None) == served


def test_what_counts_for_next_to_nothing_has_to_be_served_as_well() -> None:
    large = want("a", point("a", 1.0, 75), rate=3.0, weight=1e-9)
    small = want("b", point("b", 1.0, 1), rate=1.0, weight=1e9)
    assert bound(PlanRequest(gpus(2), (large, small), interference=FREE)) is None


def test_a_sample_that_cannot_be_served_proves_nothing() -> None:
    """Of two models the first one alone is more than half of what there is."""
    models = want("a", point("a", 1.0, 40, sm=50), rate=3.0), want("b", point("b", 1.0, 40, sm=50))
    pours = make_pours(build_sites(build_instance(PlanRequest(gpus(2), models, interference=FREE))))
    sampled = cost_bound(pours, solve_sampled(pours, as_cost=True, most=len(pours.entry) - 1))
    assert 0 <= sampled <= 2


@pytest.mark.parametrize("names", ["ab" * 6, "ba" * 6])
def test_a_sample_holds_all_kinds_of_model_in_whatever_order_they_are_listed(names: str) -> None:
    """Every other model takes a device, the others next to nothing."""
    models = tuple(
        want(f"m{n}", point(f"m{n}", 1.0, 70 if name == "a" else 1), rate=1.0)
        for n, name in enumerate(names)
    )
    pours = make_pours(
        build_sites(build_instance(PlanRequest(gpus(12), models, interference=FREE)))
    )
    sampled = cost_bound(pours, solve_sampled(pours, as_cost=True, most=len(pours.entry) // 2))
    assert sampled >= 4


@pytest.mark.parametrize(("least", "most"), [(3, 2), (0, 1)])
def test_numbers_of_replicas_that_contradict_the_demand_are_impossible(
    least: int, most: int
) -> None:
    model = want("a", point("a", 1.0, 10, sm=10), rate=1.5, min_replicas=least, max_replicas=most)
    found = linear_prices(build_sites(build_instance(PlanRequest(gpus(2), (model,)))), as_cost=True)
    assert found.value is None
    assert (found.entry > 0).all()


def test_goodput_is_bounded_by_what_devices_hold() -> None:
    model = want("a", point("a", 5, 30, sm=50), rate=100)
    asked = PlanRequest((gpu(),), (model,), objective=Objective.MAX_GOODPUT, interference=FREE)
    assert bound(asked) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("rate", [100, 1_001, 123_456.7, 1e6])
def test_a_demand_far_beyond_all_devices_leaves_their_bound_as_it_is(rate: float) -> None:
    """However many replicas it would take: more than the demand is cut into steps."""
    models = (want("a", point("a", 5.3, 30, sm=50), rate=rate), want("b", point("b", 1, 1), rate=1))
    asked = PlanRequest(gpus(4), models, objective=Objective.MAX_GOODPUT, interference=FREE)
    assert bound(asked) == pytest.approx(4 * 2 * 5.3 + 1, rel=0.05)


def test_a_demand_of_very_many_replicas_takes_as_many_devices_as_they_do() -> None:
    """How many the devices are to be is found without having them."""
    model, price, rate = np.array([0, 0]), np.array([1.0, 2.5]), np.array([3, 8])
    need = np.array([1_000_003])
    (least,) = cheapest_covers(model, price, rate, need, np.array([0]))
    assert least == pytest.approx(1_000_003 * 2.5 / 8, rel=1e-4)


def test_goodput_is_bounded_by_the_largest_number_of_replicas() -> None:
    model = want("a", point("a", 5, 30, sm=10), rate=100, max_replicas=3)
    asked = PlanRequest(gpus(4), (model,), objective=Objective.MAX_GOODPUT, interference=FREE)
    assert bound(asked) == pytest.approx(15, rel=1e-6)


@pytest.mark.parametrize(("share", "devices"), [(1.0, 3), (0.5, 2)])
def test_what_has_to_survive_bounds_the_devices(share: float, devices: int) -> None:
    rules = PlacementRules(survive=FaultDomain.DEVICE, survive_share=share)
    model = want("a", point("a", 1.0, 60), rate=2.0, rules=rules)
    assert bound(PlanRequest(gpus(3), (model,), interference=FREE)) == devices


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("seed", seeds(60))
def test_no_plan_is_better(
    seed: int, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether devices with different largest kappas are told apart or not."""
    asked = question(seed, objective, limited=seed % 2 == 0)
    sites = sites_of(asked)
    for split in (4_000, 0):
        monkeypatch.setattr("partitiond.planner.bounds.placements_lp.SPLIT", split)
        found = linear_prices(sites, as_cost=objective.is_cost)
        assert (found.entry > 0).all()
        assert is_bound(asked, found.value)


@pytest.mark.parametrize("split", [4_000, 0])
@pytest.mark.parametrize("seed", seeds(10, 3))
def test_what_a_device_holds_takes_no_more_than_all_of_it(
    seed: int, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every resource, run one of the ways that hold it, at the level that it reaches."""
    monkeypatch.setattr("partitiond.planner.bounds.placements_lp.SPLIT", split)
    rng = np.random.default_rng(seed)
    points = [
        point("a", 1.0 + n, 4.0 + 4 * n, busy=float(rng.choice([0.1, 0.3, 0.6])), kappa=kappa)
        for n, kappa in enumerate(rng.permutation([0.05, 0.1, 0.2, 0.4]).tolist())
    ]
    asked = PlanRequest(gpus(1), (want("a", *points, rate=9.0),), interference=CROWDED)
    sites, held = build_sites(build_instance(asked)), 0
    pours = make_pours(sites)
    for site in range(len(sites.site_class)):
        for chosen in sets_of(sites, site):
            level = level_of(sites, site, chosen) if chosen else None
            if level is not None:
                held += 1
                ways = (pours.way_site == site) & (pours.way_level == level)
                assert min(_taken(pours, int(w), chosen) for w in np.flatnonzero(ways)) <= 1 + 1e-9
    assert held > 10


def _taken(pours: Pours, way: int, chosen: tuple[int, ...]) -> float:
    """The largest share of a device that is run a way; infinite where it may not hold them all."""
    share = {e: pours.share[n] for n, e in enumerate(pours.entry) if pours.way[n] == way}
    if not share.keys() >= {*chosen}:
        return np.inf
    return float(sum(share[e] for e in chosen).max())


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("seed", seeds(40))
def test_any_prices_give_a_bound(
    seed: int, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, rng = question(seed, objective), np.random.default_rng(seed)
    sites = sites_of(asked)
    for split in (4_000, 0):
        monkeypatch.setattr("partitiond.planner.bounds.placements_lp.SPLIT", split)
        pours = make_pours(sites)
        for _ in range(10):
            of = cost_bound if objective.is_cost else goodput_bound
            value = of(pours, _some_prices(pours, rng))
            assert is_bound(asked, None if np.isinf(value) else value)


def _some_prices(pours: Pours, rng: np.random.Generator) -> Duals:
    """Many are 0: of one resource alone, of pools alone, of all."""

    def some(*shape: int) -> Floats:
        zeros = rng.random(shape) < rng.choice([0.1, 0.5, 0.9, 1.0])
        return np.where(zeros, 0.0, rng.exponential(rng.choice([0.1, 1.0, 10.0]), shape))

    ways, models = len(pours.way_class), len(pours.sites.need_rate)
    scarce = np.where(pours.sites.need_max < 1_000, some(models), 0.0)
    price = some(ways, pours.share.shape[1])
    return Duals(price, some(pours.classes.pools), scarce, np.zeros(ways))


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(1, 30)), min_size=1, max_size=3, unique=True),
    st.one_of(st.integers(0, 90), st.integers(401, 100_000)),
    st.integers(0, 3),
    st.floats(0, 2),
)
def test_no_covering_set_is_cheaper_and_none_gains_more(
    ways: list[tuple[float, int]], rate: int, replicas: int, weight: float
) -> None:
    """Of one model beside others."""
    rows = [(1, 1.0, 7), *((2, price, each) for price, each in ways)]
    model, price, each = (np.array(column) for column in zip(*rows, strict=True))
    need: Ints = np.array([0, 20, rate, 5])
    least = cheapest_covers(model, price, each, need, np.array([0, 0, replicas, 0]))
    gains = most_gains(model, price, each, need, np.array([1.0, 1.0, weight, 1.0]))
    assert least.tolist()[:2] == [0.0, 3.0]
    assert np.isinf(least[3]), "nothing covers it"
    assert gains.tolist()[:2] == [0.0, 17.0]
    for counts in itertools.product(range(7), repeat=len(ways)):
        covered = sum(n * each for n, (_, each) in zip(counts, ways, strict=True))
        paid = sum(n * cost for n, (cost, _) in zip(counts, ways, strict=True))
        if covered >= rate and sum(counts) >= replicas:
            assert least[2] <= paid + 1e-9
        assert gains[2] >= weight * min(covered, rate) - paid - 1e-9


@pytest.mark.parametrize("kind", ["over", "slack"])
def test_prices_of_a_sample_give_a_bound_that_holds_and_is_near(kind: str) -> None:
    sites = build_sites(build_instance(request(kind, 100, 64, 1, 1.0)))
    pours, as_cost = make_pours(sites), kind == "slack"
    of = cost_bound if as_cost else goodput_bound
    whole = of(pours, solve_sampled(pours, as_cost=as_cost))
    part = of(pours, solve_sampled(pours, as_cost=as_cost, most=100))
    assert part == pytest.approx(whole, rel=0.1)
    assert part <= whole + 1e-6 if as_cost else part >= whole * (1 - 1e-6)


def test_a_replica_is_worth_what_it_takes_and_devices_are_used_where_that_pays() -> None:
    """Of two sizes the smaller one serves as much; memory is scarce, and one kind of GPU costs
    half."""
    sizes = point("a", 6, 40, sm=10), point("a", 5, 20, sm=10)
    cheap = tuple(gpu(f"c{n}", price_per_hour=1.0) for n in range(4))
    dear = tuple(gpu(f"d{n}", price_per_hour=2.0) for n in range(4))
    model = want("a", *sizes, rate=40.0)
    asked = PlanRequest((*cheap, *dear), (model,), objective=Objective.MIN_PRICE, interference=FREE)
    sites = build_sites(build_instance(asked))
    found = linear_prices(sites, as_cost=True)
    assert found.value == pytest.approx(2.0)
    cost = np.zeros(2)
    cost[sites.class_of] = sites.group_cost / 1e9
    used = np.bincount(sites.site_class, found.used.sum(axis=1))
    assert used[np.argmin(cost)] == pytest.approx(2.0)
    assert used[np.argmax(cost)] == pytest.approx(0.0)
    gib = sites.entry_use[:, 0] >> 30
    here = sites.site_class[sites.entry_site] == np.argmin(cost)
    assert found.entry[here & (gib == 20)].min() == pytest.approx(0.25, rel=0.2)
    assert found.entry[here & (gib == 40)].min() >= 0.4


@pytest.mark.parametrize(("host_bytes", "most"), [(0, 2.0), (GIB, 1.0)])
def test_a_host_without_any_memory_for_engines_holds_only_what_takes_none(
    host_bytes: int, most: float
) -> None:
    devices = tuple(dataclasses.replace(gpu(f"{host}0"), host=host) for host in "ab")
    point_a = dataclasses.replace(point("a", 1.0, 60), host_memory_bytes=Bytes(host_bytes))
    asked = PlanRequest(
        devices,
        (want("a", point_a, rate=2.0),),
        objective=Objective.MAX_GOODPUT,
        host_memory_bytes=(("a", 0), ("b", GIB)),
        interference=FREE,
    )
    found = linear_prices(build_sites(build_instance(asked)), as_cost=False)
    assert found.value == pytest.approx(most)
