"""The pure reconciler keeps its invariants in thousands of random histories of a host.

Plans change, engines fail to start, hang and die, devices break and vanish, models sleep and wake,
jobs lease, and the daemon is killed in the middle of a pass. After each action the invariants of
`core.replica.reconcile` hold, and once the host is calm it runs the plan.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.histories import History

STEPS = 60
SEEDS = 2_000
numbers = st.lists(st.integers(0, 2**32 - 1), min_size=20, max_size=STEPS)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(numbers)
def test_a_history_keeps_every_invariant_and_comes_to_rest(history: list[int]) -> None:
    History().tell(history)


@pytest.mark.soak
def test_two_thousand_long_histories() -> None:
    """Drawn without hypothesis, which is slower; a seed that fails is told with its error."""
    for seed in range(SEEDS):
        rng = random.Random(seed)
        try:
            History().tell([rng.randrange(2**32) for _ in range(STEPS)])
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
