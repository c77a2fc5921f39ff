"""Covering sets over whole replicas equal those that enumeration finds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.planner.kernels.covers import Grid, best_served, cheapest_covers

WAYS = st.lists(
    st.tuples(st.floats(0.1, 5), st.integers(1, 9)), min_size=1, max_size=3, unique=True
)


def _grid(ways: list[tuple[float, int]], need: int, least: int, most: int) -> Grid:
    """One model; a cell is one unit of rate, worth 2."""
    return Grid(
        start=np.array([0, len(ways)]),
        cell=np.array([min(rate, need) for _, rate in ways]),
        flat=np.zeros(1),
        cells=np.array([need]),
        least=np.array([least]),
        most=np.array([most]),
        reward=np.array([2.0]),
    )


def _sets(ways: list[tuple[float, int]], largest: int) -> list[tuple[float, int, int]]:
    """Price, rate and number of every set with up to so many replicas."""
    found = []
    for counts in itertools.product(range(largest + 1), repeat=len(ways)):
        if sum(counts) <= largest:
            price = sum(n * p for n, (p, _) in zip(counts, ways, strict=True))
            rate = sum(n * r for n, (_, r) in zip(counts, ways, strict=True))
            found.append((price, rate, sum(counts)))
    return found


@settings(max_examples=200)
@given(WAYS, st.integers(0, 12), st.integers(0, 3), st.sampled_from([1, 2, 3, 1_000_000]))
def test_the_cheapest_cover_and_the_best_served(
    ways: list[tuple[float, int]], need: int, least: int, most: int
) -> None:
    prices = np.array([p for p, _ in ways])
    covers = cheapest_covers(_grid(ways, need, least, most), prices)
    sets = [s for s in _sets(ways, max(12, least)) if s[2] <= most]
    fitting = [price for price, rate, number in sets if rate >= need and least <= number]
    found = float(covers.value[0])
    assert found <= min(fitting, default=np.inf) + 1e-9
    if least <= 1 or most > 100:
        assert found == pytest.approx(min(fitting, default=np.inf))
        if fitting:
            assert sum(ways[e][0] for e in covers.entries) == pytest.approx(found)
    if need and most != 3:
        served = best_served(_grid(ways, need, 0, most), prices, 99)
        best = max(2.0 * min(rate, need) - price for price, rate, _ in sets)
        assert served.value[0] == pytest.approx(best)


def test_an_entry_that_wastes_more_than_many_others_may_cover_alone() -> None:
    """Thirty waste next to nothing, and nine cover 60 cells; the last one covers just 60."""
    ways = [(7.0 + n / 1000, 7) for n in range(30)] + [(60.5, 60)]
    grid, price = _grid(ways, 60, 0, 1_000_000), np.array([p for p, _ in ways])
    cheapest, served = cheapest_covers(grid, price), best_served(grid, price, 99)
    assert cheapest.value[0] == pytest.approx(60.5)
    assert served.value[0] == pytest.approx(2.0 * 60 - 60.5)
    assert cheapest.entries.tolist() == served.entries.tolist() == [30]
