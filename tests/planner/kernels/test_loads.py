"""The device loads of the compiled search equal loads computed from scratch."""

import random

import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.kernels.anneal import revalue
from partitiond.planner.kernels.loads import COUNT, LEVEL, add, fits, remove, worth_beside
from partitiond.planner.search.annealing import empty_state, make_data
from tests.planner.problems import level_of, question, seeds, sites_of


@pytest.mark.parametrize("seed", seeds(40))
def test_levels_and_worth_are_those_of_what_the_devices_hold(seed: int) -> None:
    sites, rng = sites_of(question(seed, Objective.MAX_GOODPUT)), random.Random(seed)
    data = make_data(sites, usual_prices(sites), by_cost=False)
    state = empty_state(data)

    def held(d: int) -> tuple[int, ...]:
        return tuple(state.items[d, : state.devices[d, COUNT]].tolist())

    for _ in range(80 if len(sites.entry_item) else 0):
        d, e = rng.randrange(len(data.device_group)), rng.randrange(len(sites.entry_item))
        before = promised = float(state.worth[0])
        if rng.random() < 0.3 and held(d):
            remove(data, state, d, rng.randrange(len(held(d))))
        else:
            level = fits(data, state, d, e)
            if level < 0:
                continue
            promised += worth_beside(data, state, d, e, level)
            add(data, state, d, e, level)
            assert state.worth[0] == pytest.approx(promised, rel=1e-9, abs=1e-9 * abs(before))
        if held(d):
            site = int(sites.entry_site[held(d)[0]])
            assert state.devices[d, LEVEL] == level_of(sites, site, held(d))
        kept = float(state.worth[0])
        revalue(data, state)
        # What is left of a sum is as exact as the largest value that was in it.
        largest = max(1.0, abs(before), abs(promised), abs(kept))
        assert state.worth[0] == pytest.approx(kept, abs=1e-9 * largest)
