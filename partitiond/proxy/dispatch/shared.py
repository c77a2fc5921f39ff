"""Provides what the ledger needs from the operating system: a mapped file and a lock.

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
from partitiond.proxy.dispatch.ledger import SlotLedger, model_hash, replica_hash
from partitiond.proxy.dispatch.worker_queue import WorkerQueue

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


class LedgerAccess:
    """One worker's access to the ledger."""

    def __init__(self, file: LedgerFile, row: int) -> None:
        self.file = file
        self.ledger = file.ledger
        self.row = row

    def queue(self, model: str) -> WorkerQueue:
        """This worker's part of a model's queue. Raises LookupError if the parent knows none."""
        column = _known(self.ledger.models.find(model_hash(model)), model)
        return WorkerQueue(
            self.ledger,
            self.row,
            column,
            acquire=self.file.acquire,
            release=self.file.release,
        )

    def column(self, route: ReplicaRoute) -> int:
        """Column of a replica. Raises LookupError if the parent assigned none."""
        return _known(self.ledger.replicas.find(replica_hash(route)), route.replica_id)


def _known(index: int, name: str) -> int:
    if index < 0:
        raise LookupError(f"{name} has no place in the ledger")
    return index
