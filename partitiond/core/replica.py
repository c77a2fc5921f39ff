"""The replica's state machine, as a table.

    PENDING --start--> STARTING --ready--> SERVING --drain--> DRAINING --last done-> STOPPING
                          |                   |                                         |
                          +--exit, deadline---+--> FAILED --start--> STARTING           +--> STOPPED

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
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class ReplicaEvent(enum.StrEnum):
    """What can happen to a replica."""

    START_ASKED = "start-asked"
    BECAME_READY = "became-ready"
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
        _E.EXITED: _S.FAILED,
        _E.DEADLINE_PASSED: _S.FAILED,
        _E.STOP_ASKED: _S.STOPPING,
    },
    _S.SERVING: {
        _E.DRAIN_ASKED: _S.DRAINING,
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
