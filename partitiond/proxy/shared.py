"""What the ledger needs of the operating system: a mapped file, a lock, and bells.

The file lies in the state folder and outlives its parent: when that is killed, its workers finish
what runs, and the next parent still counts what they have in flight.

The lock is `flock` on a descriptor that each worker opened itself: the kernel lets it go when the
holder dies. 0.4 us for both calls while nobody else wants it.
"""

import contextlib
import fcntl
import functools
import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from partitiond.core.routing import ReplicaRoute
from partitiond.process_identity import start_ticks
from partitiond.proxy.ledger import Ledger, line_key, seat_key
from partitiond.proxy.line import Line, PlaceT
from partitiond.proxy.meters import PeerMeters

LEDGER_FILE: Final = "ledger"


class LedgerFile:
    """The file, mapped.

    Attributes:
        acquire, release: its lock; not twice at once.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        size = Ledger.size_bytes()
        try:
            # All of it now: a page of a mapped file that finds the disk full is a SIGBUS, later.
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError:
            os.close(self._descriptor)
            raise
        self._map = mmap.mmap(self._descriptor, size)
        self.ledger = Ledger(memoryview(self._map))

        # Not methods, nor a context: each request would pay for their frames.
        self.acquire = functools.partial(fcntl.flock, self._descriptor, fcntl.LOCK_EX)
        self.release = functools.partial(fcntl.flock, self._descriptor, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Where it is not in a hurry."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def open_as_parent(state_dir: Path) -> LedgerFile:
    """The ledger of a state folder, with the rows of those who are gone cleared.

    One of another layout, or half written, is replaced: whoever still maps it keeps it.
    """
    path = state_dir / LEDGER_FILE
    if path.exists() and path.stat().st_size != Ledger.size_bytes():
        path.unlink()
    found = LedgerFile(path)
    if not found.ledger.is_valid():
        path.unlink()
        found = LedgerFile(path)
        found.ledger.begin()
    clear_the_dead(found)
    return found


def clear_the_dead(file: LedgerFile, mine: Collection[int] = ()) -> list[int]:
    """Clear rows whose workers are gone, except `mine`; those that have a living one."""
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


class Bells:
    """One bell for each row: whoever waits is told to look, in whatever worker."""

    def __init__(self, descriptors: dict[int, int]) -> None:
        self.descriptors = descriptors

    def ring(self, row: int) -> None:
        """Tell its worker. One of another parent has no bell here, and looks by itself."""
        descriptor = self.descriptors.get(row)
        if descriptor is not None:
            with contextlib.suppress(BlockingIOError):  # it rings already
                os.eventfd_write(descriptor, 1)

    def silence(self, row: int) -> None:
        """It was heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptors[row])


class Peers:
    """What one worker has to do with the ledger."""

    def __init__(self, file: LedgerFile, row: int, bells: Bells) -> None:
        self.file = file
        self.ledger = file.ledger
        self.row = row
        self.bells = bells
        self.meters = PeerMeters(file.ledger, row)

    def line(self, model: str) -> "PeerLine":
        """Its side of a model's line. Raises LookupError when the parent gave it none."""
        return PeerLine(self, _known(self.ledger.lines.find(line_key(model)), model))

    def seat(self, route: ReplicaRoute) -> int:
        """Where a replica's numbers stand. Raises LookupError when the parent gave it none."""
        return _known(self.ledger.seats.find(seat_key(route)), route.replica_id)


class PeerLine(Line):
    """A line with what it takes to act on it.

    Attributes:
        acquire, release: the lock of all workers, for the calls that say so.
    """

    __slots__ = ("_bells", "acquire", "release")

    def __init__(self, peers: Peers, line: int) -> None:
        super().__init__(peers.ledger, peers.row, line)
        self.acquire = peers.file.acquire
        self.release = peers.file.release
        self._bells = peers.bells

    def hand_on(self, places: Collection[PlaceT]) -> None:
        """Places are left here: tell whoever is next in line elsewhere."""
        row = self.next_in_line(places)
        if row is not None:
            self._bells.ring(row)


def _known(index: int, name: str) -> int:
    if index < 0:
        raise LookupError(f"{name} has no place in the ledger")
    return index
