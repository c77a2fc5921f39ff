"""The best set of one device is the one that enumeration finds."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.kernels.pricing import price_way
from partitiond.planner.market.value import Way, make_ways
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import Floats, Ints, Sites, build_sites
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import FREE, gpus, point, want
from tests.planner.problems import question, seeds, sets_of, sites_of

MANY = 2_000_000


def _values(sites: Sites, rng: random.Random) -> Floats:
    """Values near what entries take, so that many sets are nearly as good; some worth nothing."""
    shares = sites.entry_use / np.maximum(sites.capacity[sites.entry_site], 1)
    noise = np.array([rng.uniform(0.8, 1.2) for _ in sites.entry_item])
    values = (shares.max(axis=1, initial=0.0) + 0.05) * noise
    return np.where([rng.random() < 0.1 for _ in noise], -1.0, values)


def _sets(sites: Sites, way: Way) -> Iterator[tuple[int, ...]]:
    """Sets of entries that a device run that way can hold, by the way's own limits alone."""
    there = set(way.entries.tolist())
    for chosen in sets_of(sites, way.site):
        load = sum(int(sites.entry_busy[e]) for e in chosen)
        limit = way.place.busy_limit
        fits = len(chosen) <= way.place.max_items and load <= limit[len(chosen)]
        if fits and there.issuperset(chosen):
            yield chosen


def _ask(
    way: Way, value: Floats, most: Ints, *, floor: float = 0.0, nodes: int = MANY
) -> tuple[tuple[int, ...], float, float]:
    mine, duals = value[way.entries], np.zeros_like(way.duals)
    chosen, worth, bound = price_way(mine, most[way.entries], way.place, duals, floor, nodes)
    return tuple(sorted(way.entries[chosen].tolist())), worth, bound


@pytest.mark.parametrize("seed", seeds(150, 12))
def test_the_best_set_is_found_and_bounds_hold(seed: int) -> None:
    rng = random.Random(seed)
    sites = sites_of(question(seed, Objective.MIN_PRICE))
    value = _values(sites, rng)
    most = np.array([rng.choice([1, 2, 9]) for _ in value], dtype=np.int64)
    for way in make_ways(sites, as_cost=True):
        sets = {tuple(sorted(c)): sum(float(value[e]) for e in c) for c in _sets(sites, way)}
        best = max(
            worth for chosen, worth in sets.items()
            if all(chosen.count(e) <= most[e] and value[e] > 0 for e in chosen)
        )  # fmt: skip
        chosen, worth, bound = _ask(way, value, most)
        assert worth == pytest.approx(best)
        assert best <= bound <= best + 1e-6
        assert worth == pytest.approx(sets[chosen])
        for nodes in (0, 1, 3, 10):  # few give a bound that holds
            _, worth, bound = _ask(way, value, most, nodes=nodes)
            assert worth <= best + 1e-9
            assert bound >= best - 1e-12
        for floor in (best * 0.9, best * 1.1):  # no more than this is not looked for
            chosen, worth, bound = _ask(way, value, most, floor=floor)
            assert best - 1e-12 <= bound <= max(floor, best) + 1e-6
            assert worth == (pytest.approx(best) if floor < best else 0.0)
            assert bool(chosen) == (floor < best)
        duals = np.zeros_like(way.duals)
        for scale in (1.0, 0.5, 2.0):  # multipliers of other values give a bound that holds
            other = value * scale * np.array([rng.uniform(0.7, 1.4) for _ in value])
            _, true, _ = _ask(way, other, most)
            floor = true * rng.choice([0.5, 1.0, 2.0])
            mine, allowed = other[way.entries], most[way.entries]
            *_, bound = price_way(mine, allowed, way.place, duals, floor, MANY)
            assert bound >= true - 1e-12


def test_a_bound_that_is_the_floor_is_raised_by_the_rounding_of_sums() -> None:
    """Of what fills a device the multipliers give exactly its worth."""
    asked = PlanRequest(gpus(1), (want("a", point("a", 1.0, 80), rate=1.0),), interference=FREE)
    (way,) = make_ways(build_sites(build_instance(asked)), as_cost=True)
    ones = np.ones(1), np.ones(1, dtype=np.int64)
    for duals in (np.zeros_like(way.duals), way.duals * 0 + 1.0 / len(way.duals)):
        chosen, worth, bound = price_way(*ones, way.place, duals, 1.0, MANY)
        assert (len(chosen), worth) == (0, 0.0)
        assert 1.0 + 1.5e-9 < bound < 1.0 + 2.5e-9
