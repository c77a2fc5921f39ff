"""The replica's table covers every state x event."""

import itertools

import pytest

from partitiond.core.replica.states import (
    TRANSITIONS,
    IllegalTransitionError,
    ReplicaEvent,
    ReplicaState,
    step,
)


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(ReplicaState, ReplicaEvent)), ids=str
)
def test_every_state_and_event_follows_the_table_or_is_refused(
    state: ReplicaState, event: ReplicaEvent
) -> None:
    target = TRANSITIONS[state].get(event)
    if target is None:
        with pytest.raises(IllegalTransitionError, match=state.value):
            step(state, event)
    else:
        assert step(state, event) is target


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(ReplicaState)


def test_every_state_can_be_reached_from_pending() -> None:
    reached = {ReplicaState.PENDING}
    while True:
        further = {target for state in reached for target in TRANSITIONS[state].values()}
        if further <= reached:
            break
        reached |= further
    assert reached == set(ReplicaState)


def test_a_draining_replica_never_serves_again() -> None:
    reached = {ReplicaState.DRAINING}
    frontier = {ReplicaState.DRAINING}
    while frontier:
        frontier = {
            target
            for state in frontier
            for event, target in TRANSITIONS[state].items()
            if event is not ReplicaEvent.START_ASKED
        } - reached
        reached |= frontier
    assert ReplicaState.SERVING not in reached


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.SERVING])
def test_an_exit_nobody_asked_for_is_a_failure(state: ReplicaState) -> None:
    assert step(state, ReplicaEvent.EXITED) is ReplicaState.FAILED


@pytest.mark.parametrize("state", [ReplicaState.DRAINING, ReplicaState.STOPPING])
def test_an_exit_on_the_way_out_is_no_failure(state: ReplicaState) -> None:
    assert step(state, ReplicaEvent.EXITED) is ReplicaState.STOPPED
