"""The device loads of the compiled search equal loads computed from scratch."""

import random

import numpy as np
import pytest

from partitiond.core.model.placement_rules import FaultDomain, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.kernels.loads import Loads
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import RATE_SCALE, PlanRequest
from partitiond.planner.search.annealing import make_data
from tests.planner.build import gpu, gpus, point, want
from tests.planner.problems import level_of, question, seeds, sites_of


@pytest.mark.parametrize("seed", seeds(40))
def test_levels_and_worth_are_those_of_what_the_devices_hold(seed: int) -> None:
    sites, rng = sites_of(question(seed, Objective.MAX_GOODPUT)), random.Random(seed)
    data = make_data(sites, usual_prices(sites), by_cost=False)
    state = Loads(data)
    for _ in range(80 if len(sites.entry_item) else 0):
        d, e = rng.randrange(len(data.device_group)), rng.randrange(len(sites.entry_item))
        before = promised = state.worth
        if rng.random() < 0.3 and state.count[d]:
            state.remove(d, rng.randrange(state.count[d]))
        else:
            level = state.fits(d, e)
            if level < 0:
                continue
            promised += state.worth_beside(d, e, level)
            state.add(d, e, level)
            assert state.worth == pytest.approx(promised, rel=1e-9, abs=1e-9 * abs(before))
        held = tuple(state.entries_on(d))
        if held:
            site = int(sites.entry_site[held[0]])
            assert state.level[d] == level_of(sites, site, held)
        kept = state.worth
        state.revalue()
        # What is left of a sum is as exact as the largest value that was in it.
        largest = max(1.0, abs(before), abs(promised), abs(kept))
        assert state.worth == pytest.approx(kept, abs=1e-9 * largest)


def test_a_replica_is_worth_its_gain_less_what_every_model_beside_it_loses() -> None:
    """Two at 0.6 of a device each run at level 1.5, three at 2.5; b lacks its least number."""
    levels = Interference((1.0, 1.5, 2.5), (1.0, 1.5, 2.5), 0.0, 0.0, 0.0)
    models = (
        want("a", point("a", 10, 20, sm=20, busy=0.6), rate=30),
        want("b", point("b", 4, 20, sm=20, busy=0.6), rate=20, min_replicas=1),
    )
    request = PlanRequest((gpu(),), models, objective=Objective.MAX_GOODPUT, interference=levels)
    sites = build_sites(build_instance(request))
    data = make_data(sites, usual_prices(sites), by_cost=False)
    state = Loads(data)
    entry = [int(np.flatnonzero(sites.entry_model == m)[-1]) for m in range(2)]
    for model, gain in ((0, 10.0), (1, 14 / 1.5 - 10), (0, 24 / 2.5 - 14 / 1.5)):
        level = state.fits(0, entry[model])
        promised = state.worth_beside(0, entry[model], level)
        assert state.worth_beside(0, entry[model], level) == promised, "asking changes nothing"
        if model == 1:  # and it was short of one replica, which counts more than all requests
            promised -= data.short[1]
        assert promised / RATE_SCALE == pytest.approx(gain, rel=1e-3)
        state.add(0, entry[model], level)


@pytest.mark.parametrize(
    ("count", "rate", "each"), [(3, 8.0, 10), (3, None, 10), (2, 10.0, 5), (3, 10.0, 1)]
)
def test_each_replica_on_the_way_to_survive_a_loss_is_worth_something(
    count: int, rate: float | None, each: float
) -> None:
    """The first one too, after whose loss nothing is left; and one more where all hold as much."""
    rules = PlacementRules(survive=FaultDomain.DEVICE)
    models = (want("a", point("a", each, 4), rate=rate, rules=rules),)
    none = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)
    request = PlanRequest(gpus(count), models, objective=Objective.MIN_DEVICES, interference=none)
    sites = build_sites(build_instance(request))
    data = make_data(sites, usual_prices(sites), by_cost=True)
    state, entry = Loads(data), int(np.flatnonzero(sites.entry_model == 0)[-1])
    while state.worth < 0:
        gains = [state.worth_beside(d, entry, state.fits(d, entry)) for d in range(count)]
        device = gains.index(max(gains))
        assert gains[device] > 0
        state.add(device, entry, state.fits(device, entry))
    assert not state.falls_short(0)
