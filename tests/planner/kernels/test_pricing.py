"""The best set of one device is the one that enumeration finds."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from partitiond.core.plan.record import Objective
from partitiond.planner.kernels.pricing import price_way
from partitiond.planner.market.value import Way, make_ways
from partitiond.planner.model.sites import Floats, Ints, Sites
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
    mine = value[way.entries]
    chosen, worth, bound = price_way(
        mine, most[way.entries], way.place, np.zeros_like(way.duals), floor, nodes
    )
    return tuple(sorted(way.entries[chosen].tolist())), worth, bound


def _worth(value: Floats, chosen: tuple[int, ...]) -> float:
    return float(sum(value[e] for e in chosen))


@pytest.mark.parametrize("seed", seeds(150, 15))
def test_the_best_set_is_found(seed: int) -> None:
    rng = random.Random(seed)
    sites = sites_of(question(seed, Objective.MIN_PRICE))
    value = _values(sites, rng)
    most = np.array([rng.choice([1, 2, 9]) for _ in value], dtype=np.int64)
    for way in make_ways(sites, as_cost=True):
        best = max(
            _worth(value, chosen)
            for chosen in _sets(sites, way)
            if all(chosen.count(e) <= most[e] and value[e] > 0 for e in chosen)
        )
        chosen, worth, bound = _ask(way, value, most)
        assert worth == pytest.approx(best)
        assert best <= bound <= best + 1e-6
        assert chosen in {tuple(sorted(c)) for c in _sets(sites, way)}
        assert worth == pytest.approx(_worth(value, chosen))


@pytest.mark.parametrize("seed", seeds(40, 5))
def test_few_nodes_give_a_valid_bound(seed: int) -> None:
    sites = sites_of(question(seed, Objective.MIN_PRICE))
    value = _values(sites, random.Random(seed))
    most = np.full(len(value), 99, dtype=np.int64)
    for way in make_ways(sites, as_cost=True):
        _, best, _ = _ask(way, value, most)
        for nodes in (0, 1, 3, 10):
            _, worth, bound = _ask(way, value, most, nodes=nodes)
            assert worth <= best + 1e-9
            assert bound >= best - 1e-12


@pytest.mark.parametrize("seed", seeds(40, 5))
def test_what_is_worth_no_more_than_the_floor_is_not_looked_for(seed: int) -> None:
    rng = random.Random(seed)
    sites = sites_of(question(seed, Objective.MIN_PRICE))
    value = _values(sites, rng)
    most = np.full(len(value), 99, dtype=np.int64)
    for way in make_ways(sites, as_cost=True):
        _, best, _ = _ask(way, value, most)
        for floor in (best * 0.9, best * 1.1):
            chosen, worth, bound = _ask(way, value, most, floor=floor)
            assert bound >= best - 1e-12
            assert (worth == pytest.approx(best)) if floor < best else not chosen


@pytest.mark.parametrize("seed", seeds(40, 5))
def test_multipliers_of_other_values_give_a_valid_bound(seed: int) -> None:
    rng = random.Random(seed)
    sites = sites_of(question(seed, Objective.MIN_PRICE))
    most = np.full(len(sites.entry_item), 99, dtype=np.int64)
    for way in make_ways(sites, as_cost=True):
        duals = np.zeros_like(way.duals)
        for _ in range(3):
            value = _values(sites, rng)
            _, best, _ = _ask(way, value, most)
            floor = best * rng.choice([0.5, 1.0, 2.0])
            _, _, bound = price_way(
                value[way.entries], most[way.entries], way.place, duals, floor, MANY
            )
            assert bound >= best - 1e-12
