"""Decides what happens next to a request that is served; pure.

    phase        an engine answers        the attempt fails          the client leaves or stalls
    WAITING      -                        -                          ENDED
    ATTEMPTING   ANSWERING, or ENDED      `after_failure`            ENDED
    ANSWERING    ENDED                    ENDED, with an error event ENDED

A time limit that has passed (`passed_limit`) ends a request that waits, and fails an attempt.
No event is sent to the client before the first content has come from an engine. Until then an
attempt may be repeated on another replica, at most once and within the retry budget.
"""

import enum

from partitiond.proxy.config import ProxyOptions


class Phase(enum.Enum):
    """The phase of a complete request."""

    WAITING = enum.auto()
    """It has no replica: it is in a queue, here or at another host, or about to be placed."""
    ATTEMPTING = enum.auto()
    """A replica has it, and the client has nothing of its answer."""
    ANSWERING = enum.auto()
    """The client has the beginning of a stream."""
    ENDED = enum.auto()


class AfterFailure(enum.Enum):
    """What follows a failed attempt."""

    FAIL = enum.auto()
    """The client gets the error."""
    REFUSE = enum.auto()
    """The client gets an error that it should not answer by sending the request again."""
    MOVE = enum.auto()
    """The request is placed again. It was never sent, so this is no retry."""
    RETRY = enum.auto()
    """The request is placed again, if there is another replica and the budget allows it."""


def after_failure(
    phase: Phase, kind: str, *, suspected: bool, unreached: bool, attempts: int, most: int
) -> AfterFailure:
    """Decide what follows a failed attempt.

    Args:
        phase: of the request when the attempt failed.
        kind: of the failure (see `AttemptError`).
        suspected: the request may have killed its replica (see `core.dispatch.quarantine`).
        unreached: no process listened, so nothing was sent.
        attempts: that the request has had, without unreached ones.
        most: attempts that a request may have; 0 if its entry, at another host, sends it on.
    """
    if phase is Phase.ANSWERING:
        return AfterFailure.FAIL
    if suspected:
        return AfterFailure.REFUSE
    if unreached and most:
        # Each time one replica fewer is eligible, so this ends.
        return AfterFailure.MOVE
    if attempts >= most or kind == "total_timeout":
        return AfterFailure.FAIL
    return AfterFailure.RETRY


def passed_limit(
    phase: Phase,
    options: ProxyOptions,
    *,
    now: float,
    deadline: float,
    progress_at: float,
    stream: bool,
) -> str:
    """Return the kind of failure of a request whose time limit has passed, or empty.

    Args:
        options: of the proxy: the limits.
        now: monotonic seconds, as all times here.
        deadline: of the whole request.
        progress_at: when its engine last showed that it works, or else got it.
        stream: its answer is a stream.
    """
    if now > deadline:
        return "total_timeout"
    silent = now - progress_at
    if phase is Phase.ANSWERING and silent > options.between_tokens_timeout_seconds:
        return "between_tokens_timeout"
    if phase is not Phase.ANSWERING and stream and silent > options.first_token_timeout_seconds:
        return "first_token_timeout"
    return ""
