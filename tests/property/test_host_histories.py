"""Hosts come and go, engines die, heads start anew: no engine is an orphan, none runs twice, and
what was on a lost host runs elsewhere while there is room.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.host_histories import Fleet

numbers = st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=60)
fleets = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(fleets, st.integers(0, 8), numbers)
def test_a_fleet_keeps_every_invariant_and_comes_to_rest(
    devices: list[int], replicas: int, history: list[int]
) -> None:
    Fleet(devices, min(replicas, 2 * sum(devices))).tell(history)


def test_forty_hosts_of_which_many_are_away() -> None:
    rng = random.Random(7)
    Fleet([1] * 40, 50).tell([rng.randrange(2**32) for _ in range(60)])


@pytest.mark.full
def test_three_hundred_long_histories() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        devices = [rng.randint(0, 3) for _ in range(rng.randint(1, 5))]
        replicas = min(rng.randint(0, 10), 2 * sum(devices))
        try:
            Fleet(devices, replicas).tell([rng.randrange(2**32) for _ in range(80)])
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
