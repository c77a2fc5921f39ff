"""Hands connections to workers: the parent accepts, and the worker with the fewest gets them.

With one listening socket for all workers, the worker that is awake takes everything; with one for
each (SO_REUSEPORT) a hash decides. Streams are long, so the number of open connections matters.
"""

import asyncio
import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

ACCEPT_AT_ONCE: Final = 64
"""Maximum number of connections accepted in one go, so that other work of the parent can run."""
FULL_SECONDS: Final = 0.01
"""How long connections wait in the kernel if no worker takes them, or if no file is left."""
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Limit of the back-off while no file is left: each pause doubles the previous one. Chosen."""
TELL_SECONDS: Final = 10.0
"""Minimum interval between log lines about an error that lasts."""
NO_FILE_LEFT: Final = (
    "%s: %s. They wait in the kernel meanwhile. Raise the limit of open files (LimitNOFILE= in "
    "systemd, ulimit -n), or lower [proxy] max_connections"
)

_logger = logging.getLogger("partitiond.proxy")


class Taker(Protocol):
    """A worker that takes connections."""

    handoff: socket.socket
    handed: int

    def open_connections(self) -> int:
        """Number of connections that were handed to the worker and are not closed."""
        ...


class RateLimitedError:
    """An error that may recur every few milliseconds, and is logged at a limited rate."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told_at = -math.inf

    def tell(self, why: object) -> None:
        """Log the error, unless it was logged a moment ago."""
        now = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            _logger.error(NO_FILE_LEFT, self._what, why)


def fewest(takers: Sequence[Taker]) -> Sequence[Taker]:
    """Sort workers by open connections, the fewest first."""
    return sorted(takers, key=lambda taker: taker.open_connections())


class Acceptor:
    """Accepts connections as long as there are workers that take them."""

    def __init__(self, listener: socket.socket, takers: Callable[[], Sequence[Taker]]) -> None:
        self._listener = listener
        self._takers = takers
        self._reading = False
        self._closed = False
        self._pause: asyncio.TimerHandle | None = None
        self._pause_seconds = FULL_SECONDS
        self._complaint = RateLimitedError("connections cannot be accepted")
        self._in_hand: socket.socket | None = None
        """A connection that was accepted, but that no worker could take."""

    def resume(self) -> None:
        """Accept again, because a worker takes connections."""
        if not self._reading and not self._closed:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._listener)

    def close(self) -> None:
        """Stop listening."""
        self._stop()
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        if self._in_hand is not None:
            self._in_hand.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            takers = fewest(self._takers())
            if not takers:
                self._stop()  # until `resume`
                return
            connection = self._in_hand or self._next()
            self._in_hand = None
            if connection is None:
                return
            if not any(hand(taker, connection) for taker in takers):
                self._in_hand = connection
                self._wait(FULL_SECONDS)
                return
            connection.close()

    def _next(self) -> socket.socket | None:
        try:
            connection = self._listener.accept()[0]
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None
        except OSError as error:
            self._complaint.tell(error)
            self._wait(self._pause_seconds)
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
            return None
        self._pause_seconds = FULL_SECONDS
        return connection

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._pause = asyncio.get_running_loop().call_later(seconds, self.resume)


def hand(taker: Taker, connection: socket.socket) -> bool:
    """Hand over a connection; False if the worker's queue is full, or if it is gone."""
    with contextlib.suppress(OSError):
        socket.send_fds(taker.handoff, [b"c"], [connection.fileno()])
        taker.handed += 1
        return True
    return False


class Taken(NamedTuple):
    """The connections that a worker took.

    Attributes:
        lost: number of connections that were handed over but could not be received.
        full: no file is left; connections that were not taken wait to be taken later.
    """

    connections: list[socket.socket]
    lost: int = 0
    full: bool = False


def take(handoff: socket.socket, family: int) -> Taken | None:
    """Take the connections that were handed over by now; None if the parent is gone."""
    taken: list[socket.socket] = []
    lost = 0
    for _ in range(ACCEPT_AT_ONCE):
        # A connection received when no file is left is lost, and its client sees a reset.
        if not _a_file_is_left(handoff):
            return Taken(taken, lost, full=True)
        try:
            word, descriptors, _flags, _address = socket.recv_fds(
                handoff, 1, 1, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            break
        except OSError:
            word, descriptors = b"", []
        if not word:
            return Taken(taken, lost) if taken or lost else None
        lost += not descriptors
        for descriptor in descriptors:
            taken.append(socket.socket(family, socket.SOCK_STREAM, 0, fileno=descriptor))
    return Taken(taken, lost)


def _a_file_is_left(handoff: socket.socket) -> bool:
    try:
        os.close(os.dup(handoff.fileno()))
    except OSError:
        return False
    return True
