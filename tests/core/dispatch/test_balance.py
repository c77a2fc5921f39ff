"""Choosing and retrying follow their rules."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.balance import ReplicaLoad, choose_replica, occupancy
from partitiond.core.dispatch.retry_budget import MOST_CREDIT, RESERVE, RetryBudget

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


@given(LOADS, st.sets(st.sampled_from("abcdefgh")), DRAWS, st.sampled_from("abcdefgh"))
def test_the_chosen_one_may_be_chosen_and_none_is_less_occupied(
    loads: list[ReplicaLoad], tried: set[str], draws: tuple[float, float], wish: str
) -> None:
    open_ones = [load for load in loads if not load.draining and not load.ejected]
    allowed = [load for load in open_ones if load.replica_id not in tried]
    chosen = choose_replica(loads, tried, draws)
    if chosen is None:
        assert not allowed
        return
    assert chosen in allowed
    assert occupancy(chosen) == min(map(occupancy, allowed))
    wished = choose_replica(loads, tried, draws, prefer=(wish,))
    assert wished in allowed
    assert wished.replica_id == wish or wished is chosen


@given(st.integers(2, 8), DRAWS)
def test_ties_are_decided_by_the_draws_only(count: int, draws: tuple[float, float]) -> None:
    loads = [ReplicaLoad(str(i), 0, 8) for i in range(count)]
    chosen = choose_replica(loads, (), draws)
    assert chosen is loads[int(draws[0] * count)]


def test_of_two_empty_replicas_that_are_drawn_the_larger_wins() -> None:
    small, large = ReplicaLoad("small", 0, 2), ReplicaLoad("large", 0, 32)
    assert choose_replica([small, large], (), (0.0, 0.9)) is large
    assert choose_replica([small, large], (), (0.9, 0.0)) is large


@given(LOADS, DRAWS)
def test_a_doubtful_one_comes_after_all_others_whatever_is_preferred(
    loads: list[ReplicaLoad], draws: tuple[float, float]
) -> None:
    doubted = [dataclasses.replace(load, doubt=n % 3) for n, load in enumerate(loads)]
    allowed = [load for load in doubted if not load.draining and not load.ejected]
    prefer = tuple(load.replica_id for load in doubted if load.doubt)
    chosen = choose_replica(doubted, (), draws, prefer=prefer)
    if chosen is not None:
        assert chosen.doubt == min(load.doubt for load in allowed)


@given(st.lists(st.booleans(), max_size=500))
def test_retries_never_exceed_their_share_of_requests(retries: list[bool]) -> None:
    budget, made = RetryBudget(), 0
    for requests, is_retried in enumerate(retries, start=1):
        budget.count_request()
        made += is_retried and budget.take()
        assert made <= RESERVE + budget.share * requests + 1e-6
        assert budget.credit <= MOST_CREDIT


def test_a_share_of_nothing_retries_nothing() -> None:
    assert not RetryBudget(share=0.0).take()
    budget = RetryBudget(share=0.2)
    assert [budget.take() for _ in range(int(RESERVE) + 1)] == [True] * int(RESERVE) + [False]
    budget = RetryBudget()
    assert [budget.take(RESERVE - 1) for _ in range(2)] == [True, False]
