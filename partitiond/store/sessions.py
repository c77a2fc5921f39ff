"""Runs transactions on the store's file, for the repositories that share it."""

import contextlib
import difflib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session

from partitiond import serde
from partitiond.core.errors import InputError, NotFoundError, StoreBusyError, StoreError
from partitiond.core.unread import UnreadBody
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.store.connection import DURABLE, IMMEDIATE, PATIENCE, connect
from partitiond.store.errors import store_error

T = TypeVar("T")

IN_MEMORY: Final = ":memory:"
PATIENCE_SECONDS: Final = 5.0
"""Our own transactions take milliseconds; a longer lock is another process's."""
LOCKED_SECONDS: Final = 0.5
"""For so long after a wait that was in vain, no transaction waits again."""

log = logging.getLogger(__name__)


class Sessions:
    """One SQLite file, opened; each repository adds the calls of its tables."""

    def __init__(
        self, engine: Engine, path: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._locked_at = -math.inf
        self._files: dict[str, tuple[int, int] | None] = {}
        self._connections = 0
        event.listen(engine, "connect", lambda *_: self._count(1))
        event.listen(engine, "close", lambda *_: self._count(-1))
        engine = engine.execution_options(**{PATIENCE: self._patience_ms})
        self._engine = engine
        self._writing = engine.execution_options(**{IMMEDIATE: True})
        self._writing_durably = engine.execution_options(**{IMMEDIATE: True, DURABLE: True})
        self._lock = threading.RLock()
        self._closed = False
        self._unread: dict[str, UnreadBody] = {}

    @contextlib.contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        if self._closed:
            raise StoreError(
                f"the store {self.path} is closed.", hint="The daemon is ending; start it again."
            )
        try:
            with self._lock, Session(engine) as session, session.begin():
                yield session
        except IntegrityError:
            raise
        except (DBAPIError, UnicodeDecodeError) as error:  # the latter: see opening.py
            found = store_error(self.path, error)
            if isinstance(found, StoreBusyError):
                self._locked_at = time.monotonic()
            raise found from error

    def _patience_ms(self) -> int:
        """Return milliseconds that a transaction waits for another process's lock.

        A waiting transaction blocks the event loop. So one transaction waits for a lock; while the
        lock is held, the writes that follow only try.
        """
        if time.monotonic() - self._locked_at < LOCKED_SECONDS:
            return 0
        return round(self._patience_seconds * 1000)

    def wait_until_writable(self, seconds: float) -> None:
        """Wait until no other process holds the lock; not for the event loop's own thread.

        Raises:
            StoreBusyError: another process holds the lock for so many seconds.
            StoreError: the store cannot be written for another reason.
        """
        if self.path == IN_MEMORY or self._closed:
            return
        self._check_in_place()
        try:
            with contextlib.closing(connect(Path(self.path), seconds)) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        self._locked_at = -math.inf

    def _count(self, change: int) -> None:
        self._connections += change
        if not self._connections:  # with the last one SQLite removes the log; then it makes another
            self._files = {name: at for name, at in self._files.items() if name == self.path}

    @property
    def problem(self) -> str:
        """Why what is written would be lost: a file of the store is not where it was opened. Empty
        if all are there.
        """
        for name, opened in self._files.items():
            if _identity(name) != opened:
                return f"the file {name} of the store was moved, replaced or removed."
        return ""

    def _check_files(self) -> None:
        """Raise StoreError unless the files written now are those at the store's path."""
        if self.path == IN_MEMORY:
            return
        for name in (self.path, f"{self.path}-wal", f"{self.path}-shm"):
            self._files.setdefault(name, _identity(name))
        self._check_in_place()

    def _check_in_place(self) -> None:
        """Raise StoreError if a file was moved: SQLite removes the log where it opens another."""
        if self.problem:
            raise StoreError(
                self.problem,
                hint="Nothing is stored until it is back. If it is gone, stop the daemon, which "
                "writes its log into the store, restore a backup if the store is gone, and start.",
                facts={"path": self.path},
            )

    def _read(self) -> contextlib.AbstractContextManager[Session]:
        return self._session(self._engine)

    @contextlib.contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[Session]:
        """Run one transaction that writes.

        Args:
            durable: what is committed survives a power loss, and so does everything that was
                committed before. For what an operator asked for (a key removed, a model, a plan);
                what partitiond notes by itself may lose its last transactions.
        """
        with self._session(self._writing_durably if durable else self._writing) as session:
            yield session
            session.flush()
            self._check_files()
            reached(FaultPoint.STORE_COMMITTING)
        reached(FaultPoint.STORE_COMMITTED)

    def _parse(self, kind: type[T], text: str, what: str) -> T:
        try:
            return serde.from_stored_json(kind, text)
        except InputError as error:
            raise StoreError(
                f"the store {self.path} holds a {what} that cannot be read: {error.message}",
                hint="It was changed by hand or written by another release, which can read it.",
                facts={"path": self.path, "row": what},
            ) from error

    def _readable(self, kind: type[T], bodies: Iterable[tuple[str, str]]) -> list[T]:
        """Parse those of (text, what it is) that can be read; the others are set aside."""
        found = []
        for text, what in bodies:
            try:
                found.append(self._parse(kind, text, what))
            except StoreError as error:
                self._set_aside(what, error)
        return found

    def _set_aside(self, what: str, error: StoreError) -> None:
        if what not in self._unread:
            log.error("%s", error)
            self._unread[what] = UnreadBody(what, error.message)

    def unread(self) -> Sequence[UnreadBody]:
        """Return rows that were found unreadable since the store was opened, each once."""
        return tuple(self._unread.values())

    def close(self) -> None:
        """Write the log back into the file and release it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            with contextlib.suppress(DBAPIError), self._engine.connect() as connection:
                # Another process may be reading the log: then the log's last user writes it back.
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            self._engine.dispose()


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from each other one; None if there is none."""
    with contextlib.suppress(OSError):
        found = Path(path).stat()
        return found.st_dev, found.st_ino
    return None


def need_row(row: T | None, what: str, key: str, names: Callable[[], Iterable[str]] = tuple) -> T:
    """Return the row. Raises NotFoundError if there is none.

    Args:
        names: finds the keys that there are, of which one may be meant.
    """
    if row is None:
        near = difflib.get_close_matches(key, list(names()), n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise NotFoundError(
            f"there is no {what} {key}.",
            hint=f"{meant}Check the name; the list of {what}s shows what there is.",
            facts={what: key},
        )
    return row
