"""Opens the store: checks the file without writing, then makes, migrates or takes it as it is."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from partitiond.core.errors import StoreError
from partitiond.store.connection import APPLICATION_ID, make_engine
from partitiond.store.errors import store_error
from partitiond.store.migrate import MIGRATIONS, back_up, create, pending, upgrade
from partitiond.store.repository import Store
from partitiond.store.sessions import IN_MEMORY, PATIENCE_SECONDS

BUSY_TIMEOUT_SECONDS: Final = PATIENCE_SECONDS
_MAGIC: Final = b"SQLite format 3\x00"


def open_store(
    path: Path | str,
    *,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    patience_seconds: float | None = None,
    migrations: Path = MIGRATIONS,
) -> Store:
    """Open the store, making it or bringing its schema up to date first.

    Args:
        path: the file, or ":memory:" for a store that vanishes with the process.
        busy_timeout_seconds: how long the opening waits for another process's lock.
        patience_seconds: how long each call waits for it afterwards; None: as long as the opening.
        migrations: folder of the revisions.

    Raises:
        StoreError: the file is damaged, no store of ours, locked, of a newer schema, or cannot be
            written. It was not changed.
    """
    if str(path) == IN_MEMORY:
        engine = make_engine(None, busy_timeout_seconds)
        create(engine, migrations)
        return Store(engine, IN_MEMORY)
    file = Path(path)
    with _in_our_words(file):
        if not file.exists():
            _create(file, busy_timeout_seconds, migrations)
        else:
            _check_and_migrate(file, busy_timeout_seconds, migrations)
        engine = make_engine(file, busy_timeout_seconds)
        return Store(
            engine,
            str(file),
            busy_timeout_seconds if patience_seconds is None else patience_seconds,
        )


@contextlib.contextmanager
def _in_our_words(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, DBAPIError, UnicodeDecodeError) as error:
        # UnicodeDecodeError: a damaged schema is quoted, byte by byte, in SQLite's message.
        raise store_error(file, error) from error
    except OSError as error:
        raise StoreError(
            f"the store {file} cannot be made or read: {error.strerror or error}.",
            hint="Make its folder writable for this user, free space, or choose another state_dir.",
            facts={"path": str(file)},
        ) from error


def _create(file: Path, busy_timeout_seconds: float, migrations: Path) -> None:
    """Make a complete store under another name, then link it into place."""
    log = file.with_name(file.name + "-wal")
    if log.exists():  # SQLite would replay it into the new file, and damage it
        raise StoreError(
            f"the store {file} is missing, but its log {log.name} is there.",
            hint="Put the file back beside it, or move the log (-wal, -shm) away, too.",
            facts={"path": str(file)},
        )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.new-{os.getpid()}")
    draft.unlink(missing_ok=True)  # left by a process that had this id and died
    draft.touch(mode=0o600)
    engine = make_engine(draft, busy_timeout_seconds)
    try:
        create(engine, migrations)
        with engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")  # a checkpoint cannot run in a transaction
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql("BEGIN")
        engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was first: use its store
            os.link(draft, file)
    finally:
        engine.dispose()
        for leftover in (draft, *(draft.with_name(draft.name + s) for s in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)


def _check_and_migrate(file: Path, busy_timeout_seconds: float, migrations: Path) -> None:
    _check_header(file)
    revision = _inspect(file, busy_timeout_seconds)
    if pending(file, revision, migrations):
        back_up(file, revision)
        engine = make_engine(file, busy_timeout_seconds)
        try:
            upgrade(engine, migrations)
        finally:
            engine.dispose()


def _check_header(file: Path) -> None:
    with file.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    if not magic:
        raise StoreError(
            f"the store {file} is empty: what it held is gone (a full disk, a broken copy).",
            hint="Restore a copy, or remove the file to start with an empty store.",
            facts={"path": str(file)},
        )
    if magic != _MAGIC:
        raise StoreError(
            f"{file} is not a SQLite database, or its header is damaged.",
            hint="Restore a copy, or move the file away to start with an empty store.",
            facts={"path": str(file)},
        )


def _inspect(file: Path, busy_timeout_seconds: float) -> str:
    """Check the file on a read-only connection; return its schema revision."""
    uri = f"{file.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_seconds)
    with contextlib.closing(connection):
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(
                f"the store {file} is damaged: {verdict}.",
                hint="Restore a copy, or move the file away to start with an empty store.",
                facts={"path": str(file)},
            )
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID:
            raise StoreError(
                f"{file} is a SQLite database, but not a store of partitiond.",
                hint="Choose another state_dir, or move the file away.",
                facts={"path": str(file), "application_id": application_id},
            )
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(rows[0][0]) if rows else "none"


def inspect_store(path: Path, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> str:
    """Check a store's file without writing it; returns its schema's revision.

    Raises:
        StoreError: the file is damaged, no store of ours, locked, or cannot be read.
    """
    with _in_our_words(path):
        _check_header(path)
        return _inspect(path, busy_timeout_seconds)
