"""Provides what the ledger needs from the operating system: a mapped file, a lock, and bells.

The file lies in the state folder and outlives the parent: when the parent is killed, its workers
finish their requests, and the next parent still counts what those workers have in flight.

The lock is `flock` on a descriptor that each worker opened itself: the kernel releases the lock
when the holder dies. Both calls together take 0.4 us while the lock is not contended.
"""

import contextlib
import fcntl
import functools
import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.routing import ReplicaRoute
from partitiond.platform.process_identity import start_ticks
from partitiond.proxy.dispatch.ledger import SlotLedger, line_key, seat_key
from partitiond.proxy.dispatch.line import Line, PlaceT

LEDGER_FILE: Final = "ledger"


class LedgerFile:
    """The ledger's file, mapped.

    Attributes:
        acquire, release: take and release its lock, which is not reentrant.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        size = SlotLedger.size_bytes()
        try:
            # Allocate it all now: later, a page of a mapped file on a full disk raises SIGBUS.
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError:
            os.close(self._descriptor)
            raise
        self._map = mmap.mmap(self._descriptor, size)
        self.ledger = SlotLedger(memoryview(self._map))

        # Not methods, nor a context manager: each request would pay for their frames.
        self.acquire = functools.partial(fcntl.flock, self._descriptor, fcntl.LOCK_EX)
        self.release = functools.partial(fcntl.flock, self._descriptor, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; for code that is not time-critical."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def open_as_parent(state_dir: Path) -> LedgerFile:
    """Open the ledger of a state folder, and clear the rows of workers that are gone.

    A ledger of another layout, or half written, is replaced; processes that map it keep it.
    """
    path = state_dir / LEDGER_FILE
    if path.exists() and path.stat().st_size != SlotLedger.size_bytes():
        path.unlink()
    found = LedgerFile(path)
    if not found.ledger.is_valid():
        path.unlink()
        found = LedgerFile(path)
        found.ledger.begin()
    clear_the_dead(found)
    return found


def clear_the_dead(file: LedgerFile, mine: Collection[int] = ()) -> list[int]:
    """Clear rows whose workers are gone, except `mine`; return the rows with living workers."""
    alive = []
    ledger = file.ledger
    for row in range(ledger.rows):
        pid, ticks = ledger.owner(row)
        if not pid or row in mine:
            continue
        if start_ticks(pid) == ticks:
            alive.append(row)
        else:
            with file.locked():
                ledger.clear(row)
    return alive


class Wakeups:
    """One bell for each row: wakes the row's worker, so that its waiting requests look again."""

    def __init__(self, descriptors: dict[int, int]) -> None:
        self.descriptors = descriptors

    def ring(self, row: int) -> None:
        """Wake the row's worker. A worker of another parent has no bell here; it polls."""
        descriptor = self.descriptors.get(row)
        if descriptor is not None:
            with contextlib.suppress(BlockingIOError):  # it is ringing already
                os.eventfd_write(descriptor, 1)

    def silence(self, row: int) -> None:
        """Reset a bell that was heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptors[row])


class LedgerAccess:
    """One worker's access to the ledger."""

    def __init__(self, file: LedgerFile, row: int, bells: Wakeups) -> None:
        self.file = file
        self.ledger = file.ledger
        self.row = row
        self.bells = bells

    def line(self, model: str) -> "PeerLine":
        """This worker's side of a model's line. Raises LookupError if the parent assigned none."""
        return PeerLine(self, _known(self.ledger.lines.find(line_key(model)), model))

    def seat(self, route: ReplicaRoute) -> int:
        """Seat of a replica in the ledger. Raises LookupError if the parent assigned none."""
        return _known(self.ledger.seats.find(seat_key(route)), route.replica_id)


class PeerLine(Line):
    """A line with the lock and the bells that acting on it needs.

    Attributes:
        acquire, release: the lock of all workers, for the calls marked (locked).
    """

    __slots__ = ("_bells", "acquire", "release")

    def __init__(self, peers: LedgerAccess, line: int) -> None:
        super().__init__(peers.ledger, peers.row, line)
        self.acquire = peers.file.acquire
        self.release = peers.file.release
        self._bells = peers.bells

    def hand_on(self, places: Collection[PlaceT]) -> None:
        """Wake the worker that is next in line, because this worker leaves places free."""
        row = self.next_in_line(places)
        if row is not None:
            self._bells.ring(row)


def _known(index: int, name: str) -> int:
    if index < 0:
        raise LookupError(f"{name} has no place in the ledger")
    return index
