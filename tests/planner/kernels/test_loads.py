"""The device loads of the compiled search equal loads computed from scratch."""

import random

import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.kernels.loads import Loads
from partitiond.planner.search.annealing import make_data
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
