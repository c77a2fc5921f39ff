"""The replica's state machine, as a table.

    PENDING --start--> STARTING --ready--> SERVING --drain--> DRAINING --last done-> STOPPING
                          |                 |  ^                                        |
                          |           sleep |  | ready                                  +--> STOPPED
                          |                 v  |
                          |              DROWSY, FALLING_ASLEEP, SLEEPING, WAKING
                          |                   |
                          +--exit, deadline---+--> FAILED --start--> STARTING

Asleep, an engine keeps its process and gives up its KV cache and its weights (`core.sleep`). It is
DROWSY while it finishes what runs, FALLING_ASLEEP and WAKING while it gives memory up or takes it
back, and holds the whole of its partition in all three; only SLEEPING holds less.

One table owns every transition; an event with no entry raises and changes nothing. The table in
`docs/architecture.md` is generated from it.
"""

import enum
from typing import Final

from partitiond.core.errors import PartitiondError


class ReplicaState(enum.StrEnum):
    """Where a replica is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    SERVING = "serving"
    DROWSY = "drowsy"
    """Gets no new requests, finishes what runs, and is then put to sleep."""
    FALLING_ASLEEP = "falling-asleep"
    SLEEPING = "sleeping"
    WAKING = "waking"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class ReplicaEvent(enum.StrEnum):
    """What can happen to a replica."""

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
        # An engine that slept while the daemon was started again is found asleep.
        _E.FELL_ASLEEP: _S.SLEEPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
        _E.STOP_ASKED: _S.STOPPING,
    },
    _S.SERVING: {
        _E.SLEEP_ASKED: _S.DROWSY,
        _E.DRAIN_ASKED: _S.DRAINING,
        _E.STOP_ASKED: _S.STOPPING,
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
    },
    _S.DROWSY: {
        _E.LAST_REQUEST_DONE: _S.FALLING_ASLEEP,
        # It has given nothing up yet.
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
    """An event that has no meaning in the state; nothing was changed."""

    code = "illegal_transition"


def step(state: ReplicaState, event: ReplicaEvent) -> ReplicaState:
    """The state after the event.

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
