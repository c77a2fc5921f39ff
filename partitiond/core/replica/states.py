"""Defines the replica's state machine, as a table.

    PENDING --start--> STARTING --ready--> SERVING --drain--> DRAINING --stop, broke--> STOPPING
                          |                 |  ^                                         |
                          |           sleep |  | ready                         STOPPED <--exit
                          |                 v  |
                          |              QUIESCING, FALLING_ASLEEP, SLEEPING, WAKING
                          |                   |
                          +-------broke-------+--> FAILING --exit--> FAILED --start--> STARTING

An engine that is asleep keeps its process and gives up its KV cache and its weights
(`core.replica.sleep`). It is QUIESCING while it finishes what runs, and FALLING_ASLEEP or WAKING
while it gives memory up or takes it back. In these three states it holds its whole partition; only
in SLEEPING it holds less.

An engine that exits by itself, hangs or is late is FAILING until nothing of it is left. Like one
that is STOPPING, it serves nobody, and holds its partition.

One table owns every transition; an event with no entry raises and changes nothing. The table in
`docs/reference/replica-states.md` is generated from it.
"""

import enum
from typing import Final

from partitiond.core.errors import PartitiondError


class ReplicaState(enum.StrEnum):
    """The states of a replica."""

    PENDING = "pending"
    STARTING = "starting"
    SERVING = "serving"
    QUIESCING = "drowsy"
    """The replica gets no new requests, and finishes those that run; then it is put to sleep. The
    value is an older word, which the API keeps."""
    FALLING_ASLEEP = "falling-asleep"
    SLEEPING = "asleep"
    WAKING = "waking"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILING = "failing"
    """The replica failed, and a part of its engine is still there."""
    FAILED = "failed"


class ReplicaEvent(enum.StrEnum):
    """Events that can happen to a replica."""

    START_ASKED = "start-asked"
    BECAME_READY = "became-ready"
    SLEEP_ASKED = "sleep-asked"
    FELL_ASLEEP = "fell-asleep"
    WAKE_ASKED = "wake-asked"
    DRAIN_ASKED = "drain-asked"
    LAST_REQUEST_DONE = "last-request-done"
    STOP_ASKED = "stop-asked"
    BROKE = "broke"
    """Its engine exited by itself, hangs, was late or is lost."""
    EXITED = "exited"
    """Nothing of its engine is left."""


_S = ReplicaState
_E = ReplicaEvent

ENDING: Final = frozenset({_S.STOPPING, _S.FAILING})
"""States of an engine that serves nobody any more, and of which a part is still there."""

_ENDS: Final = {_E.STOP_ASKED: _S.STOPPING, _E.BROKE: _S.FAILING}

TRANSITIONS: Final[dict[ReplicaState, dict[ReplicaEvent, ReplicaState]]] = {
    _S.PENDING: {_E.START_ASKED: _S.STARTING},
    # An engine that slept through a restart of the daemon is found asleep.
    _S.STARTING: {_E.BECAME_READY: _S.SERVING, _E.FELL_ASLEEP: _S.SLEEPING, **_ENDS},
    _S.SERVING: {_E.SLEEP_ASKED: _S.QUIESCING, _E.DRAIN_ASKED: _S.DRAINING, **_ENDS},
    _S.QUIESCING: {
        _E.LAST_REQUEST_DONE: _S.FALLING_ASLEEP,
        # A quiescing engine has given nothing up yet.
        _E.WAKE_ASKED: _S.SERVING,
        _E.DRAIN_ASKED: _S.DRAINING,
        **_ENDS,
    },
    _S.FALLING_ASLEEP: {_E.FELL_ASLEEP: _S.SLEEPING, **_ENDS},
    _S.SLEEPING: {_E.WAKE_ASKED: _S.WAKING, **_ENDS},
    _S.WAKING: {_E.BECAME_READY: _S.SERVING, **_ENDS},
    # It was about to end: that it ends by itself is no failure.
    _S.DRAINING: {_E.STOP_ASKED: _S.STOPPING, _E.BROKE: _S.STOPPING},
    _S.STOPPING: {_E.EXITED: _S.STOPPED},
    _S.STOPPED: {_E.START_ASKED: _S.STARTING},
    _S.FAILING: {_E.EXITED: _S.FAILED},
    _S.FAILED: {_E.START_ASKED: _S.STARTING},
}


class IllegalTransitionError(PartitiondError):
    """The event has no meaning in this state; nothing was changed."""

    code = "illegal_transition"


def step(state: ReplicaState, event: ReplicaEvent) -> ReplicaState:
    """Return the state after the event.

    Raises:
        IllegalTransitionError: the table has no entry.
    """
    target = TRANSITIONS[state].get(event)
    if target is None:
        raise IllegalTransitionError(
            f"a replica that is {state.value} cannot take {event.value}.",
            facts={"state": state.value, "event": event.value},
        )
    return target


def ended_state(state: ReplicaState) -> ReplicaState:
    """Return the state of a replica of whose engine nothing is left, whatever it was in before.

    Raises:
        IllegalTransitionError: it had no engine.
    """
    return step(state if state in ENDING else step(state, _E.BROKE), _E.EXITED)
