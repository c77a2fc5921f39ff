"""Accepts connections, and hands them to workers: the worker with the fewest gets them.

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
from collections.abc import Callable, Iterable
from typing import Final

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


class Accepting:
    """Accepts connections until it is closed, from now on.

    It does without `loop.sock_accept`, which logs an error as of a bug if it is cancelled in the
    turn of the event loop in which a connection comes.

    Args:
        listener: where they come; does not block.
        opened: called with each; returns False if nobody can take it yet: it is offered again then.
        whose: they are, for the log: " of other hosts".
    """

    def __init__(
        self,
        listener: socket.socket,
        opened: Callable[[socket.socket], object],
        *,
        whose: str = "",
    ) -> None:
        self._listener = listener
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._pause_seconds = FULL_SECONDS
        self._complaint = RateLimitedError(f"connections{whose} cannot be accepted")
        self._in_hand: socket.socket | None = None
        """A connection that was accepted, and that nobody could take."""
        self._resume()

    def close(self) -> None:
        """Accept no more, and close the listener."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        if self._in_hand is not None:
            self._in_hand.close()
        self._listener.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)
        if self._in_hand is not None:  # of this one the listener tells no more
            self._accept()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            connection = self._in_hand or self._next()
            self._in_hand = None
            if connection is None:
                return
            if self._opened(connection) is False:
                self._in_hand = connection
                self._wait(FULL_SECONDS)
                return

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
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._resume)


class Handoff:
    """Hands one worker the connections of one listener.

    Attributes:
        handed: number of connections that the worker was handed.
        workers_end: of the socket pair, for an `Intake`.

    Args:
        closed: returns how many of these connections the worker has closed.
    """

    def __init__(self, closed: Callable[[], int]) -> None:
        self._own, self.workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setblocking(False)
        self._closed = closed
        self.handed = 0

    def open_connections(self) -> int:
        """Number of connections that were handed to the worker and are not closed."""
        return self.handed - self._closed()

    def hand(self, connection: socket.socket) -> bool:
        """Hand over a connection; False if the worker's queue is full, or if it is gone."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._own, [b"c"], [connection.fileno()])
            self.handed += 1
            return True
        return False

    def close(self) -> None:
        """Hand over no more."""
        self._own.close()


def hand_on(handoffs: Iterable[Handoff], connection: socket.socket) -> bool:
    """Hand a connection to the worker with the fewest that takes it; False if none does."""
    for handoff in sorted(handoffs, key=Handoff.open_connections):
        if handoff.hand(connection):
            connection.close()
            return True
    return False


class Intake:
    """Takes the connections that the parent hands one worker, at the other end of a `Handoff`.

    Attributes:
        family: of the connections.

    Args:
        handoff: the worker's end.
        opened: called with each connection.
        lost: called for each connection that was handed over and could not be received.
    """

    def __init__(
        self,
        handoff: socket.socket,
        opened: Callable[[socket.socket], object],
        lost: Callable[[], object],
    ) -> None:
        handoff.setblocking(False)
        self.family = int(socket.AF_INET)
        self._handoff = handoff
        self._opened = opened
        self._lost = lost
        self._complaint = RateLimitedError("a worker cannot take connections")

    def start(self) -> None:
        """Take connections from now on."""
        if self._handoff.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._handoff, self.take)

    def stop(self) -> None:
        """Take no further connection."""
        if self._handoff.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._handoff)
            self._handoff.close()

    def take(self) -> None:
        """Take what was handed over by now; stop if the parent is gone."""
        for _ in range(ACCEPT_AT_ONCE if self._handoff.fileno() >= 0 else 0):
            # A connection received when no file is left is lost, and its client sees a reset.
            if not _a_file_is_left(self._handoff):
                self._complaint.tell("too many open files")
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._handoff)
                loop.call_later(FULL_SECONDS, self.start)
                return
            try:
                word, descriptors, _flags, _address = socket.recv_fds(
                    self._handoff, 1, 1, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                word, descriptors = b"", []
            if not word:
                self.stop()
                return
            if not descriptors:
                self._lost()  # the parent counts it as handed over
            for descriptor in descriptors:
                self._opened(socket.socket(self.family, socket.SOCK_STREAM, 0, fileno=descriptor))


def _a_file_is_left(handoff: socket.socket) -> bool:
    try:
        os.close(os.dup(handoff.fileno()))
    except OSError:
        return False
    return True
