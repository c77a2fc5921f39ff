"""What is known of a peer: what it told, and what was sent there since."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import peer_loads
from partitiond.core.dispatch.admission import Cost
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.peer_loads import MOST, PeerCounts, PeerLoads
from tests.core.dispatch.fleet_hosts import load

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 10**30, math.nan, math.inf, -math.inf])
)
NONSENSE = st.builds(
    PeerCounts,
    st.lists(
        st.builds(
            ReplicaLoad,
            st.sampled_from(["a", "b", "c"]),
            NUMBERS,
            NUMBERS,
            NUMBERS,
            NUMBERS,
            st.booleans(),
            st.booleans(),
            NUMBERS,
        ),
        max_size=3,
    ).map(tuple),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)


def shown(loads: PeerLoads) -> tuple[object, ...]:
    return (
        [(r.replica_id, r.sequences, r.kv_tokens) for r in loads.replicas.values()],
        loads.waiting,
        loads.waiting_sequences,
    )


def test_counts_grow_old() -> None:
    loads = PeerLoads("h")
    assert not loads.is_fresh(0.0)
    assert loads.is_silent(0.0)
    loads.take_over(PeerCounts(()), 64.0)
    assert loads.is_fresh(64.0 + peer_loads.FRESH_SECONDS - 0.01)
    assert not loads.is_fresh(64.0 + peer_loads.FRESH_SECONDS + 0.01)
    assert not loads.is_silent(64.0 + peer_loads.SILENT_SECONDS - 0.01)
    assert loads.is_silent(64.0 + peer_loads.SILENT_SECONDS + 0.01)
    assert loads.is_silent(math.nan)


def test_free_places_are_those_of_replicas_that_take_requests() -> None:
    loads = PeerLoads("h")
    loads.take_over(
        PeerCounts(
            (
                load("a", 3),
                load("over", 9),
                load("empty", 0, 0),
                load("leaves", draining=True),
                load("out", ejected=True),
            )
        ),
        0.0,
    )
    assert loads.free_sequences() == 5 + 1
    assert loads.sequences_in_flight() == 12


@given(NONSENSE)
def test_whatever_is_told_is_within_bounds(counts: PeerCounts) -> None:
    loads = PeerLoads("h")
    loads.take_over(counts, 0.0)
    assert loads.service_seconds > 0
    for count in (loads.waiting, loads.waiting_sequences, loads.free_sequences()):
        assert isinstance(count, int)
        assert 0 <= count <= 3 * MOST
    for told in loads.replicas.values():
        for count in (told.sequences, told.max_sequences, told.kv_tokens, told.kv_cache_tokens):
            assert isinstance(count, int)
            assert 0 <= count <= MOST
        assert told.doubt in {0, 1, 2}


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, 10**30])
def test_what_is_no_count_is_full_and_what_is_no_limit_gives_no_room(nonsense: float) -> None:
    loads = PeerLoads("h")
    told = ReplicaLoad("a", nonsense, 8)  # type: ignore[arg-type]
    limit = ReplicaLoad("b", 5, math.nan)  # type: ignore[arg-type]
    loads.take_over(PeerCounts((told, limit), nonsense, nonsense, math.nan), 0.0)  # type: ignore[arg-type]
    assert loads.free_sequences() == 0
    assert loads.waiting == loads.waiting_sequences == MOST
    assert loads.service_seconds == math.inf


def test_a_refusal_holds_until_new_counts() -> None:
    loads = PeerLoads("h")
    loads.take_over(PeerCounts((load("a"),)), 0.0)
    loads.sent(1, Cost(1, 10), 0.1, "a")
    loads.refused(1)
    assert loads.full
    assert shown(loads) == ([("a", 0, 0)], 0, 0)
    loads.take_over(PeerCounts((load("a"),)), 0.1)
    assert not loads.full
