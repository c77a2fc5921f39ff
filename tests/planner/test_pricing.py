"""The best set of one device is the one that enumeration finds."""

import random

import numpy as np
import pytest

from partitiond.core.plan import Objective
from partitiond.planner.arrays import Problem
from partitiond.planner.kernels.pricing import best_pattern, many_patterns
from tests.planner.problems import holds, random_problem, sets_of


def _values(problem: Problem, rng: random.Random) -> np.ndarray:
    """Values near what entries take, so that many sets are nearly as good; some worth nothing."""
    shares = problem.entry_use / np.maximum(problem.capacity[problem.entry_place], 1)
    noise = [rng.uniform(0.8, 1.2) for _ in problem.entry_item]
    values = (shares.max(axis=1) + 0.05) * noise
    return np.where([rng.random() < 0.1 for _ in noise], -1.0, values)


@pytest.mark.parametrize("seed", range(150))
def test_the_best_set_is_found(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(seed, Objective.MIN_PRICE)
    value = _values(problem, rng)
    most = np.array([rng.choice([1, 2, 9]) for _ in value], dtype=np.int64)
    for place in range(len(problem.place_group)):
        best = max(
            sum(float(value[e]) for e in chosen)
            for chosen in sets_of(problem, place)
            if all(chosen.count(e) <= most[e] and value[e] > 0 for e in chosen)
        )
        found = best_pattern(problem, place, value, most)
        assert found.value == pytest.approx(best)
        assert best <= found.bound <= best + 1e-6
        chosen = tuple(np.repeat(found.entries, found.counts).tolist())
        assert holds(problem, place, chosen)
        assert (found.counts <= most[found.entries]).all()
        assert found.value == pytest.approx(sum(value[e] for e in chosen))


@pytest.mark.parametrize("seed", range(40))
def test_few_nodes_give_a_valid_bound(seed: int) -> None:
    problem = random_problem(seed, Objective.MIN_PRICE)
    value = _values(problem, random.Random(seed))
    most = np.full(len(value), 99, dtype=np.int64)
    for place in range(len(problem.place_group)):
        exact = best_pattern(problem, place, value, most)
        for limit in (0, 1, 3, 10):
            short = best_pattern(problem, place, value, most, node_limit=limit)
            assert short.value <= exact.value + 1e-9
            assert short.bound >= exact.value - 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_a_forced_entry_is_in_the_best_set_with_it(seed: int) -> None:
    problem = random_problem(seed, Objective.MIN_PRICE)
    value = _values(problem, random.Random(seed))
    most = np.full(len(value), 99, dtype=np.int64)
    for entry, place in enumerate(problem.entry_place):
        forced = np.array([entry], dtype=np.int64)
        (found,) = many_patterns(problem, int(place), value, most, forced, node_limit=10**6)
        best = max(
            sum(float(value[e]) for e in chosen)
            for chosen in sets_of(problem, int(place))
            if entry in chosen and all(value[e] > 0 for e in chosen if e != entry)
        )
        # Copies of an entry that is worth nothing are not added to the forced one.
        if value[entry] > 0:
            assert entry in found.entries
            assert found.value == pytest.approx(best)


def test_an_empty_place_holds_nothing() -> None:
    problem = random_problem(2, Objective.MIN_PRICE)
    nothing = np.zeros(len(problem.entry_item))
    found = best_pattern(problem, 0, nothing, np.ones(len(nothing), dtype=np.int64))
    assert not len(found.entries)
    assert found.value == 0.0
