"""Defines the replica's state machine, as a table.

    PENDING --start--> STARTING --ready--> SERVING --drain--> DRAINING --last done-> STOPPING
                          |                 |  ^                                        |
                          |           sleep |  | ready                                  +--> STOPPED
                          |                 v  |
                          |              QUIESCING, FALLING_ASLEEP, SLEEPING, WAKING
                          |                   |
                          +--exit, deadline---+--> FAILED --start--> STARTING

An engine that is asleep keeps its process and gives up its KV cache and its weights
(`core.replica.sleep`). It is QUIESCING while it finishes what runs, and FALLING_ASLEEP or WAKING
while it gives memory up or takes it back. In these three states it holds its whole partition; only
in SLEEPING it holds less.

One table owns every transition; an event with no entry raises and changes nothing. The table in
`docs/architecture.md` is generated from it.
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
    SLEEPING = "sleeping"
    WAKING = "waking"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
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
    EXITED = "exited"
    DEADLINE_PASSED = "deadline-passed"


_S = ReplicaState
_E = ReplicaEvent

TRANSITIONS: Final[dict[ReplicaState, dict[ReplicaEvent, ReplicaState]]] = {
    _S.PENDING: {_E.START_ASKED: _S.STARTING, _E.STOP_ASKED: _S.STOPPED},
    _S.STARTING: {
        _E.BECAME_READY: _S.SERVING,
        # An engine that slept through a restart of the daemon is found asleep.
        _E.FELL_ASLEEP: _S.SLEEPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
        _E.STOP_ASKED: _S.STOPPING,
    },
    _S.SERVING: {
        _E.SLEEP_ASKED: _S.QUIESCING,
        _E.DRAIN_ASKED: _S.DRAINING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.QUIESCING: {
        _E.LAST_REQUEST_DONE: _S.FALLING_ASLEEP,
        # A quiescing engine has given nothing up yet.
        _E.WAKE_ASKED: _S.SERVING,
        _E.DRAIN_ASKED: _S.DRAINING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.FALLING_ASLEEP: {
        _E.FELL_ASLEEP: _S.SLEEPING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.SLEEPING: {
        _E.WAKE_ASKED: _S.WAKING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.WAKING: {
        _E.BECAME_READY: _S.SERVING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.DRAINING: {
        _E.LAST_REQUEST_DONE: _S.STOPPING,
        _E.DEADLINE_PASSED: _S.STOPPING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.STOPPED,
    },
    _S.STOPPING: {_E.EXITED: _S.STOPPED},
    _S.STOPPED: {_E.START_ASKED: _S.STARTING},
    _S.FAILED: {_E.START_ASKED: _S.STARTING, _E.STOP_ASKED: _S.STOPPED},
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
