"""Choosing, ejecting and retrying, as rules."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.balance import (
    HEALTHY,
    EjectionPolicy,
    Health,
    ReplicaLoad,
    RetryBudget,
    after_failure,
    choose_replica,
    occupancy,
)

DRAWS = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
LOADS = st.lists(
    st.builds(
        ReplicaLoad,
        replica_id=st.sampled_from("abcdefgh"),
        sequences=st.integers(0, 64),
        max_sequences=st.integers(1, 64),
        draining=st.booleans(),
        ejected=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda load: load.replica_id,
)


@given(LOADS, st.sets(st.sampled_from("abcdefgh")), DRAWS)
def test_the_chosen_one_may_be_chosen_and_none_is_less_loaded(
    loads: list[ReplicaLoad], tried: set[str], draws: tuple[float, float]
) -> None:
    allowed = [
        load
        for load in loads
        if not load.draining and not load.ejected and load.replica_id not in tried
    ]
    chosen = choose_replica(loads, tried, draws)
    if chosen is None:
        assert not allowed
        return
    assert chosen in allowed
    assert occupancy(chosen) == min(map(occupancy, allowed))


@given(st.integers(2, 8), DRAWS)
def test_ties_are_decided_by_the_draws_only(count: int, draws: tuple[float, float]) -> None:
    loads = [ReplicaLoad(str(i), 0, 8) for i in range(count)]
    chosen = choose_replica(loads, (), draws)
    assert chosen is loads[int(draws[0] * count)]


def test_of_two_empty_replicas_that_are_drawn_the_larger_wins() -> None:
    small, large = ReplicaLoad("small", 0, 2), ReplicaLoad("large", 0, 32)
    assert choose_replica([small, large], (), (0.0, 0.9)) is large
    assert choose_replica([small, large], (), (0.9, 0.0)) is large


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_never_more_than_the_stated_share_is_ejected(
    replicas: int, ejected_others: int, failures: int
) -> None:
    policy = EjectionPolicy(max_share=0.5)
    health = after_failure(
        Health(failures=failures), 100.0,
        ejected_others=ejected_others, replicas=replicas, policy=policy,
    )  # fmt: skip
    if health.is_ejected(100.0):
        assert (ejected_others + 1) / replicas <= 0.5


def test_a_single_replica_is_never_ejected() -> None:
    health = HEALTHY
    for _ in range(100):
        health = after_failure(health, 1.0, ejected_others=0, replicas=1)
    assert not health.is_ejected(1.0)


def test_ejections_grow_and_a_success_forgets_them() -> None:
    health, now, lengths = HEALTHY, 100.0, []
    for _ in range(20):
        health = after_failure(health, now, ejected_others=0, replicas=2)
        if health.is_ejected(now):
            lengths.append(health.ejected_until - now)
            now = health.ejected_until
    assert lengths[:4] == [1, 2, 4, 8]
    assert lengths[-1] == 60
    again = after_failure(HEALTHY, now, ejected_others=0, replicas=2)
    assert not again.is_ejected(now), "one failure after a success ejects nobody"


@given(st.lists(st.booleans(), max_size=500))
def test_retries_never_exceed_their_share_of_requests(retries: list[bool]) -> None:
    budget, made = RetryBudget(), 0
    for requests, wanted in enumerate(retries, start=1):
        budget = budget.after_request()
        if wanted and (left := budget.after_retry()) is not None:
            budget = left
            made += 1
        assert made <= budget.reserve + budget.share * requests + 1e-6
