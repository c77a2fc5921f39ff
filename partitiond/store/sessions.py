"""Runs transactions on the store's file, for the repositories that share it."""

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from partitiond import serde
from partitiond.core.errors import InputError, NotFoundError, StoreBusyError, StoreError
from partitiond.core.unread import UnreadBody
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.store.errors import store_error
from partitiond.store.schema import transaction

T = TypeVar("T")

IN_MEMORY: Final = ":memory:"
PATIENCE_SECONDS: Final = 5.0
"""Our own transactions take milliseconds; a longer lock is another process's."""
LOCKED_SECONDS: Final = 0.5
"""For so long after a wait that was in vain, no transaction waits again."""

log = logging.getLogger(__name__)


Row = tuple[Any, ...]


def connect(path: Path | str, busy_timeout_seconds: float) -> sqlite3.Connection:
    """Return a connection without transactions of its own, with a write-ahead log."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_seconds, check_same_thread=False, isolation_level=None
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        connection.close()
        raise
    return connection


class Sessions:
    """One SQLite file, opened; each repository adds the calls of its tables."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._locked_at = -math.inf
        self._connection = connection
        self._lock = threading.RLock()
        self._closed = False
        self._unread: dict[str, UnreadBody] = {}
        self._parsed: dict[type, dict[str, tuple[int, Any]]] = {}

    @contextlib.contextmanager
    def _transaction(self, begin: str, level: str) -> Iterator[sqlite3.Connection]:
        """Run one transaction on the one connection.

        Args:
            level: WAL with NORMAL loses no committed transaction when a process dies, and only the
                last ones at a power loss; FULL waits for the disk at each commit. SQLite refuses to
                change it inside a transaction, so each begins by naming its own.
        """
        with self._lock:
            if self._closed:
                raise StoreError(
                    f"the store {self.path} is closed.",
                    hint="The daemon is ending; start it again.",
                )
            try:
                self._connection.execute(f"PRAGMA busy_timeout = {self._patience_ms()}")
                self._connection.execute(f"PRAGMA synchronous = {level}")
                with transaction(self._connection, begin):
                    yield self._connection
            except sqlite3.IntegrityError:
                raise
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: see opening.py
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
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=seconds)) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        self._locked_at = -math.inf

    def _rows(self, query: str, *values: object) -> list[Row]:
        """Return what a query finds."""
        with self._transaction("BEGIN", "NORMAL") as connection:
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run one transaction that writes. It takes the write lock at once: one that reads first
        and writes later could fail half-way, without waiting.

        Args:
            durable: what is committed survives a power loss, and so does everything that was
                committed before. For what an operator asked for (a key removed, a model, a plan);
                what partitiond notes by itself may lose its last transactions.
        """
        with self._transaction("BEGIN IMMEDIATE", "FULL" if durable else "NORMAL") as connection:
            yield connection
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
                self._set_aside(kind, what, error)
        return found

    def _known(self, kind: type[T], bodies: Iterable[tuple[str, str]]) -> list[T]:
        """Parse all bodies of a kind, of (text, what it is); those that cannot be read are set
        aside. One whose text is as it was is not parsed again: some thousands take seconds.
        """
        before: dict[str, tuple[int, T]] = self._parsed.get(kind, {})
        now = self._parsed[kind] = {}
        for text, what in bodies:
            known = before.get(what)
            if known is not None and known[0] == hash(text):
                now[what] = known
            else:
                for body in self._readable(kind, [(text, what)]):
                    now[what] = hash(text), body
        return [body for _, body in now.values()]

    def _set_aside(self, kind: type, what: str, error: StoreError) -> None:
        if what not in self._unread:
            log.error("%s", error)
            self._unread[what] = UnreadBody(kind, what, error.message)

    def unread(self) -> Sequence[UnreadBody]:
        """Return rows that were found unreadable since the store was opened, each once."""
        return tuple(self._unread.values())

    def close(self) -> None:
        """Write the log back into the file and release it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            with contextlib.suppress(sqlite3.Error):
                # Another process may be reading the log: then the log's last user writes it back.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()


def the_row(rows: Sequence[Row], what: str, key: str) -> Row:
    """Return the one row. Raises NotFoundError if there is none."""
    if not rows:
        raise NotFoundError(
            f"there is no {what} {key}.",
            hint=f"Check the name; the list of {what}s shows what there is.",
            facts={what: key},
        )
    return rows[0]
