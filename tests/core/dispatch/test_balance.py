"""Choosing, ejecting and retrying follow their rules."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.balance import (
    ENOUGH_OBSERVATIONS,
    HEALTHY,
    MAX_SLOWNESS,
    SLOW_FROM,
    SLOWNESS_HALF_LIFE_SECONDS,
    EjectionPolicy,
    EjectionState,
    ReplicaLoad,
    Slowness,
    after_failure,
    choose_replica,
    effective_limit,
    occupancy,
)
from partitiond.core.dispatch.retry_budget import RetryBudget

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
        EjectionState(failures=failures), 100.0,
        ejected_others=ejected_others, replicas=replicas, policy=policy,
    )  # fmt: skip
    if health.is_ejected(100.0):
        assert (ejected_others + 1) / replicas <= 0.5


@pytest.mark.parametrize("wanted", [1, 2, 3, 7])
def test_as_many_failures_in_a_row_eject_as_the_policy_says(wanted: int) -> None:
    health, policy = HEALTHY, EjectionPolicy(consecutive_failures=wanted)
    seen = []
    for _ in range(wanted):
        health = after_failure(health, 1.0, ejected_others=0, replicas=4, policy=policy)
        seen.append(health.is_ejected(1.0))
    assert seen == [False] * (wanted - 1) + [True]


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


@given(st.lists(st.sampled_from(["no retry", "retry", "given back"]), max_size=500))
def test_retries_never_exceed_their_share_of_requests(ends: list[str]) -> None:
    budget, made = RetryBudget(), 0
    for requests, end in enumerate(ends, start=1):
        budget.count_request()
        if end != "no retry" and budget.take():
            made += 1
            if end == "given back":
                budget.give_back()
                made -= 1
        assert made <= budget.reserve + budget.share * requests + 1e-6
        assert budget.credit <= budget.cap


def test_a_share_of_nothing_retries_nothing() -> None:
    assert not RetryBudget(share=0.0).take()
    assert [RetryBudget(share=0.2, reserve=credit).take() for credit in (0.99, 1.0)] == [
        False,
        True,
    ]


def watched(paces: dict[str, float], planned: dict[str, float] | None = None) -> Slowness:
    """After 60 s in which each replica ended a request of some length every second."""
    dice, slowness = random.Random(1), Slowness()
    for second in range(60):
        for name, pace in paces.items():
            tokens = dice.choice([1, 20, 100, 400])
            plan = (planned or {}).get(name, 1.0)
            slowness.observe(name, 0.1 * pace + tokens * 0.01 * pace, tokens, plan, float(second))
    return slowness


def test_a_replica_that_takes_longer_per_token_than_the_others_is_slow() -> None:
    assert watched({"a": 1.0, "b": 1.05, "c": 1.1}).factors(60.0) == {}
    factors = watched({"a": 1.0, "b": 1.0, "c": 3.0}).factors(60.0)
    assert set(factors) == {"c"}
    assert factors["c"] == pytest.approx(3.0, rel=0.15)
    assert watched({"a": 1.0, "b": 99.0}).factors(60.0) == {"b": MAX_SLOWNESS}


def test_a_replica_that_was_planned_to_be_slower_is_not_slow() -> None:
    paces = {"small": 3.0, "large": 1.0}
    assert watched(paces, {"small": 3.0, "large": 1.0}).factors(60.0) == {}


def test_one_replica_is_never_slow_and_few_requests_mean_nothing() -> None:
    assert watched({"a": 5.0}).factors(60.0) == {}
    slowness = watched({"a": 1.0})
    for _ in range(int(ENOUGH_OBSERVATIONS) - 1):
        slowness.observe("b", 9.0, 1, 1.0, 60.0)
    assert slowness.factors(60.0) == {}


def test_slowness_fades_so_that_the_replica_is_tried_again() -> None:
    slowness = watched({"a": 1.0, "b": 1.0, "c": 3.0})
    for second in range(60, 60 + int(3 * SLOWNESS_HALF_LIFE_SECONDS)):
        for name in "ab":
            slowness.observe(name, 1.1, 100, 1.0, float(second))
    assert slowness.factors(60.0 + 3 * SLOWNESS_HALF_LIFE_SECONDS) == {}


def test_another_process_is_not_held_to_what_the_one_before_did() -> None:
    slowness = watched({"a": 1.0, "b": 1.0, "c": 3.0})
    assert slowness.factors(60.0)
    slowness.forget("c")
    assert slowness.factors(60.0) == {}


@given(st.integers(1, 512), st.floats(1.0, 10.0), st.floats(1.0, 10.0))
def test_the_slower_a_replica_the_smaller_its_limit_down_to_one(
    limit: int, one: float, two: float
) -> None:
    assert effective_limit(limit, 1.0) == effective_limit(limit, SLOW_FROM) == limit
    less, more = sorted((one, two))
    assert 1 <= effective_limit(limit, more) <= effective_limit(limit, less) <= limit
    just = effective_limit(limit, SLOW_FROM * (1 + 1e-9))
    assert just >= limit - 1, "no jump where slowness begins"


@given(LOADS, st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1.0, 8.0)), DRAWS)
def test_with_slow_replicas_the_least_expected_time_counts(
    loads: list[ReplicaLoad], slowness: dict[str, float], draws: tuple[float, float]
) -> None:
    def expected(load: ReplicaLoad) -> float:
        return slowness.get(load.replica_id, 1.0) * (1 + occupancy(load))

    chosen = choose_replica(loads, (), draws, slowness=slowness)
    allowed = [load for load in loads if not load.draining and not load.ejected]
    assert (chosen is None) == (not allowed)
    if chosen is not None:
        assert expected(chosen) == pytest.approx(min(map(expected, allowed)))
