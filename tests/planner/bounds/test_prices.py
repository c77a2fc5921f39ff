"""The bound from prices holds by hand, at any prices, and against brute force."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.core.units import GIB
from partitiond.planner.bounds.placements_lp import Pours, make_pours
from partitiond.planner.bounds.prices import (
    Duals,
    bound_of,
    cheapest_covers,
    cost_bound,
    goodput_bound,
    linear_prices,
    most_gains,
    round_up,
    solve_sampled,
)
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Floats, Ints, build_sites
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import FREE, gpu, gpus, point, want
from tests.planner.problems import is_bound, question, seeds, sites_of

CROWDED = Interference((1.0, 1.5, 2.0), (1.0, 1.5, 2.0), 0.25, 0.25, 0.0)
COSTS = (Objective.MIN_DEVICES, Objective.MIN_PRICE, Objective.MIN_ENERGY)
EVERY = (*COSTS, Objective.MAX_GOODPUT)


def several(count: int, one: Candidate, **asked: object) -> tuple[ModelDemand, ...]:
    """So many models of one size."""
    return tuple(
        want(f"m{n}", dataclasses.replace(one, model=f"m{n}"), **asked)  # type: ignore[arg-type]
        for n in range(count)
    )


def hungry(gib: float) -> tuple[ModelDemand, ...]:
    """Three models that take memory of their host as well."""
    return several(3, point("", 5, 1, sm=10, host_gib=gib), rate=5)


def survives(share: float) -> tuple[ModelDemand, ...]:
    """A model that has to survive the loss of a device."""
    rules = PlacementRules(survive=FaultDomain.DEVICE, survive_share=share)
    return (want("a", point("a", 1.0, 60), rate=2.0, rules=rules),)


OF_LITTLE_WEIGHT = (
    want("a", point("a", 1.0, 75), rate=3.0, weight=1e-9),
    want("b", point("b", 1.0, 1), rate=1.0, weight=1e9),
)
EIGHT = several(8, point("", 5, 30, sm=10), rate=5)
HALVES = point("a", 1.0, 40, sm=50)
ROOMY = {"host_memory_bytes": (("host", 24 * GIB),)}
ON_TWO_HOSTS = {"host_memory_bytes": (("a", 0), ("b", GIB))}


@pytest.mark.parametrize(
    ("devices", "models", "more", "cost", "goodput"),
    [
        (gpus(8), EIGHT, {}, 3, 40),
        *((gpus(8), several(8, point("", 5, 1, sm=p), rate=5), {}, d, 40)
          for p, d in ((25, 2), (30, 3), (50, 4))),
        # Of n replicas with load b, (b + 0.25) n is at most 2.25; at level 2 they give half.
        *((gpus(8), several(8, point("", 5, 1, busy=b), rate=2.5), {"interference": CROWDED}, d, 20)
          for b, d in ((0.1, 2), (0.5, 3), (1.0, 5))),
        # Three replicas on a host with memory for two of them.
        (gpus(2), hungry(0), ROOMY, 1, 15),
        (gpus(2), hungry(12), ROOMY, None, 10),
        # A host without any memory for engines holds only what takes none.
        (
            (gpu("a0", host="a"), gpu("b0", host="b")),
            (want("a", point("a", 1.0, 60, host_gib=1), rate=2.0),), ON_TWO_HOSTS, None, 1,
        ),
        # Whole replicas, which four are the most of.
        (gpus(2), (want("a", HALVES, rate=4.0),), {}, 2, 4),
        (gpus(2), (want("a", HALVES, rate=4.0 * (1 + 1e-6)),), {}, None, 4),
        (gpus(1), (want("a", point("a", 5, 30, sm=50), rate=100),), {}, None, 10),
        (gpus(4), (want("a", point("a", 5, 30, sm=10), rate=100, max_replicas=3),), {}, None, 15),
        # A replica of each is enough but for the least numbers; four devices have eight places.
        (gpus(4), several(3, HALVES, rate=0.5, min_replicas=2), {}, 3, 1.5),
        (gpus(4), several(3, HALVES, rate=0.5, min_replicas=3), {}, None, None),
        (gpus(2), OF_LITTLE_WEIGHT, {}, None, 1e9),
        (gpus(3), survives(1.0), {}, 3, 2),
        (gpus(3), survives(0.5), {}, 2, 2),
    ],
)  # fmt: skip
def test_each_limit_bounds_devices_and_goodput(
    devices: tuple[Device, ...],
    models: tuple[ModelDemand, ...],
    more: dict[str, object],
    cost: float | None,
    goodput: float | None,
) -> None:
    """As near as it can be; that no plan is better is asked of brute force. None is impossible."""
    values: dict[str, object] = {"interference": FREE, **more}
    instance = build_instance(PlanRequest(devices, models, **values))  # type: ignore[arg-type]
    assert bound_of(instance, as_cost=True) == cost
    if goodput is not None:
        asked = dataclasses.replace(instance.request, objective=Objective.MAX_GOODPUT)
        assert bound_of(build_instance(asked), as_cost=False) == pytest.approx(goodput, rel=1e-6)


def test_a_replica_costs_what_it_draws_beyond_its_device() -> None:
    models = (want("a", point("a", 5, 75, watts=50.0), rate=5),)
    there = gpus(2, idle_watts=60.0, max_watts=300.0)
    asked = PlanRequest(there, models, objective=Objective.MIN_ENERGY, interference=FREE)
    assert bound_of(build_instance(asked), as_cost=True) == pytest.approx(60 + 50)


@pytest.mark.parametrize("rate", [100, 1_001, 123_456.7, 1e6])
def test_a_demand_far_beyond_all_devices_leaves_their_bound_as_it_is(rate: float) -> None:
    """However many replicas it would take: more than the demand is cut into steps."""
    models = (want("a", point("a", 5.3, 30, sm=50), rate=rate), want("b", point("b", 1, 1), rate=1))
    asked = PlanRequest(gpus(4), models, objective=Objective.MAX_GOODPUT, interference=FREE)
    found = bound_of(build_instance(asked), as_cost=False)
    assert found == pytest.approx(4 * 2 * 5.3 + 1, rel=0.05)


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


def test_a_demand_of_very_many_replicas_takes_as_many_devices_as_they_do() -> None:
    """How many the devices are to be is found without having them."""
    model, price, rate = np.array([0, 0]), np.array([1.0, 2.5]), np.array([3, 8])
    need = np.array([1_000_003])
    (least,) = cheapest_covers(model, price, rate, need, np.array([0]))
    assert least == pytest.approx(1_000_003 * 2.5 / 8, rel=1e-4)


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("seed", seeds(80))
def test_no_plan_is_better(seed: int, objective: Objective) -> None:
    """Than the bound of any prices."""
    asked, rng = question(seed, objective, limited=seed % 2 == 0), np.random.default_rng(seed)
    sites, as_cost = sites_of(asked), objective.is_cost
    assert is_bound(asked, bound_of(sites.instance, as_cost=as_cost))
    found = linear_prices(sites, as_cost=as_cost)
    assert (found.entry > 0).all()
    assert is_bound(asked, found.value)
    pours, of = make_pours(sites), cost_bound if as_cost else goodput_bound
    for _ in range(10):
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
    return Duals(price, some(pours.classes.pools), scarce)


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


def test_a_replica_is_worth_what_it_takes_of_the_cheaper_device() -> None:
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
    gib = sites.entry_use[:, 0] >> 30
    here = sites.site_class[sites.entry_site] == np.argmin(cost)
    assert found.entry[here & (gib == 20)].min() == pytest.approx(0.25, rel=0.2)
    assert found.entry[here & (gib == 40)].min() >= 0.4


@pytest.mark.parametrize(("prices", "bound", "least"), [
    ((2.0, 5.0), 4.5, 5.0), ((2.0, 5.0), 5.5, 6.0), ((4.0, 4.0), 4.5, 8.0),
    ((4.5, 5.0), 5.2, 9.0), ((4.5, 5.0), 5.0, 5.0), ((4.0, 6.0), 6.0 + 1e-9, 6.0),
    ((4.0, 6.0), 8.1, 10.0), ((4.0, 6.0), 0.0, 0.0),
])  # fmt: skip
def test_a_cost_is_rounded_up_to_a_sum_of_whole_devices(
    prices: tuple[float, ...], bound: float, least: float
) -> None:
    """Of devices at 2 and 5 per hour: one that costs 5 is a plan, whatever two cheap ones cost."""
    devices = tuple(gpu(f"g{n}", price_per_hour=p) for n, p in enumerate(prices))
    models = (want("a", point("a", 1, 10), rate=1),)
    asked = PlanRequest(devices, models, objective=Objective.MIN_PRICE)
    assert round_up(build_sites(build_instance(asked)), bound) == pytest.approx(least)
