"""The admission rule, refusals and the service time follow their rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import admission
from partitiond.core.dispatch.admission import Cost
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.routing import ModelAvailability
from tests.core.dispatch.fleet_hosts import Slots

COSTS = st.builds(Cost, sequences=st.integers(1, 16), kv_tokens=st.integers(1, 4000))


@given(st.lists(COSTS, max_size=60), st.integers(17, 64), st.integers(0, 20_000))
def test_limits_hold_whatever_comes_unless_one_request_is_alone(
    costs: list[Cost], max_sequences: int, kv_cache_tokens: int
) -> None:
    sequences = tokens = requests = 0
    for cost in costs:
        load = ReplicaLoad("r", sequences, max_sequences, tokens, kv_cache_tokens)
        if admission.admits(load, cost):
            requests += 1
            sequences += cost.sequences
            tokens += cost.kv_tokens
    if requests > 1:
        assert sequences <= max_sequences
        if kv_cache_tokens:
            assert tokens <= admission.KV_SHARE * kv_cache_tokens
    assert requests >= min(1, len(costs)), "an empty replica takes anything"


class Paced(Slots):
    """A replica of a planned batch of 8, which takes less now."""

    @property
    def batch(self) -> int:
        return 8


@pytest.mark.parametrize(
    ("sequences", "running", "kv_tokens", "limit", "fits"),
    [
        (7, 1, 0, 8, True),
        (7, 2, 0, 8, False),  # it can have an empty replica to itself, or wait for seven slots
        (8, 7, 0, 8, True),
        (1000, 7, 0, 8, True),
        (1000, 2007, 0, 8, False),  # another one is there
        (1000, 1, 0, 2, True),  # slow: two of its eight slots are in use
        (7, 1, 0, 2, False),  # the engine would run all seven
        # Of 1000 KV tokens in 1000 sequences, those count that find a slot.
        (1000, 4, 946, 8, True),
        (1000, 4, 947, 8, False),
    ],
)
def test_a_request_of_a_batch_or_more_takes_the_slots_that_are_free(
    sequences: int, running: int, kv_tokens: int, limit: int, *, fits: bool
) -> None:
    load = Paced("r", running, limit, kv_tokens, 1000)
    assert admission.admits(load, Cost(sequences, 1000 * bool(kv_tokens))) is fits


def test_a_request_takes_one_batch_at_a_time() -> None:
    whole = Cost(1000, 50_001)
    assert whole.at_once(32) == Cost(32, 1601)
    assert whole.at_once(1000) is whole.at_once(2000) is whole.at_once(0) is whole


@given(
    st.integers(0, 500), st.integers(0, 5000), st.integers(0, 512), st.floats(0.001, 100),
    st.floats(0.001, 1000),
)  # fmt: skip
def test_whoever_may_wait_can_expect_to_start_in_time(
    waiting: int, ahead: int, in_flight: int, service: float, max_wait: float
) -> None:
    limits = admission.QueueLimits(max_wait, in_flight, service)
    late = admission.refuse_too_late(ahead, max_wait, limits)
    full = admission.refuse_full(waiting, ahead, limits)
    wait = limits.expected_wait_seconds(ahead)
    assert (late is None) == (wait <= max_wait)
    for refusal in (late, full, admission.refuse_after_waiting(1.0, ahead, limits)):
        if refusal is not None:
            assert refusal.status == 429
            assert refusal.retry_after_seconds is not None
            assert 1 <= refusal.retry_after_seconds <= admission.MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("availability", "code"),
    [
        (ModelAvailability.STARTING, "model_starting"),
        (ModelAvailability.SERVING, "model_starting"),
        (ModelAvailability.UNAVAILABLE, "model_unavailable"),
        (ModelAvailability.SLEEPING, "model_asleep"),
        (ModelAvailability.ENDING, "shutting_down"),
    ],
)
def test_without_a_replica_it_is_503(availability: ModelAvailability, code: str) -> None:
    rejected = admission.refuse_without_replica("m", availability, 12.0)
    assert (rejected.status, rejected.code, rejected.retry_after_seconds) == (503, code, 12)
    awaiting = admission.refuse_without_replica("m", availability, 12.0, "job-1 measures it first")
    assert awaiting.message == f"{rejected.message.rstrip('.')} yet: job-1 measures it first."
