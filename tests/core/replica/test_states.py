"""The replica's table keeps the sentences that the reconciler relies on."""

import pytest

from partitiond.core.replica import states
from partitiond.core.replica.observation import LIVE
from partitiond.core.replica.states import (
    ENDING,
    TRANSITIONS,
    ReplicaEvent,
    ReplicaState,
    ended_state,
    step,
)


def reached_from(start: ReplicaState, without: ReplicaEvent | None = None) -> set[ReplicaState]:
    reached, frontier = {start}, {start}
    while frontier:
        further = {
            target
            for state in frontier
            for event, target in TRANSITIONS[state].items()
            if event is not without
        }
        frontier = further - reached
        reached |= frontier
    return reached


def test_every_state_can_be_reached_from_pending() -> None:
    assert reached_from(ReplicaState.PENDING) == set(ReplicaState) == set(TRANSITIONS)


def test_a_draining_replica_never_serves_again() -> None:
    reached = reached_from(ReplicaState.DRAINING, without=ReplicaEvent.START_ASKED)
    assert ReplicaState.SERVING not in reached


ASKED = {ReplicaState.DRAINING, ReplicaState.STOPPING}


@pytest.mark.parametrize("state", sorted(LIVE))
def test_an_exit_is_a_failure_unless_it_was_asked_for(state: ReplicaState) -> None:
    """And on the way there it serves nobody."""
    if state not in ENDING:
        assert step(state, ReplicaEvent.BROKE) in ENDING
    assert ended_state(state) is (ReplicaState.STOPPED if state in ASKED else ReplicaState.FAILED)


def test_what_rests_serves_again_at_once_and_what_ended_cannot_end() -> None:
    assert step(ReplicaState.QUIESCING, ReplicaEvent.WAKE_ASKED) is ReplicaState.SERVING
    with pytest.raises(states.IllegalTransitionError, match="stopped"):
        step(ReplicaState.STOPPED, ReplicaEvent.EXITED)
