"""Rates become integers that are neither too coarse nor too large."""

import pytest

from partitiond.planner.model.needs import units_of
from tests.planner.build import point, want


@pytest.mark.parametrize(
    ("capacity", "wanted", "units"),
    [
        (0.02, 1.0, 10**10),
        (1e-9, 1e-9, 10**15),  # no finer than that
        (1e-3, 1e6, 10**10),  # the large rate counts more than the small one
    ],
)
def test_units_are_fine_enough_for_the_least_rate_and_not_too_large_for_the_most(
    capacity: float, wanted: float, units: int
) -> None:
    assert units_of(want("a", point("a", capacity, 8), rate=wanted)) == units
