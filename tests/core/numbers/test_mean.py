"""A mean follows what is observed, by its weight, and forgets the oldest."""

import pytest

from partitiond.core.numbers.mean import Mean


def test_observations_count_by_their_weight_beside_the_first_guess() -> None:
    assert Mean(2.0, 3.0, 9.0).observe(6.0) == Mean(3.0, 4.0, 9.0)
    assert Mean(2.0, 1.0, 9.0).observe(6.0, 3.0).value == 5.0
    assert Mean(2.0, 10.0, 10.0).observe(12.0) == Mean(3.0, 10.0, 10.0), "no more is remembered"
    assert Mean(2.0, 10.0, 10.0).observe(12.0, 99.0) == Mean(12.0, 10.0, 10.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_nonsense_is_not_learned(value: float) -> None:
    assert Mean(2.0, 1.0, 9.0).observe(value) == Mean(2.0, 1.0, 9.0)
    assert Mean(2.0, 1.0, 9.0).observe(1.0, 0.0) == Mean(2.0, 1.0, 9.0)
