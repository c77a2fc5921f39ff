"""Makes connections: sets the pragmas, and begins each transaction explicitly."""

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

APPLICATION_ID: Final = 0x50415254
"""The bytes "PART" in the file header, by which `file partitiond.sqlite3` and we know the store."""
IMMEDIATE: Final = "partitiond_immediate"
"""Execution option of an engine whose transactions take the write lock at once: a transaction
that reads first and writes later could otherwise fail half-way, without waiting."""
PATIENCE: Final = "partitiond_patience"
"""Execution option of an engine: a function that returns how many milliseconds its next
transaction waits for another process's lock."""
DURABLE: Final = "partitiond_durable"
"""Execution option of an engine whose transactions are on the disk when they are committed."""


def make_engine(path: Path | None, busy_timeout_seconds: float) -> Engine:
    """Make an engine on the file, or on a fresh in-memory database if `path` is None."""
    if path is None:
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
    else:
        engine = create_engine(
            "sqlite://",
            creator=lambda: connect(path, busy_timeout_seconds),
        )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def connect(path: Path, timeout_seconds: float) -> sqlite3.Connection:
    """Open a file that is there. SQLite would make one, and remove the log of the one before it."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=timeout_seconds, check_same_thread=False)


def _on_connect(connection: Any, _record: object) -> None:
    # Autocommit in the driver, which would otherwise begin transactions late, and none for DDL.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    immediate = options.get(IMMEDIATE, False)
    if PATIENCE in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {options[PATIENCE]()}")
    # WAL with NORMAL loses no committed transaction when a process dies, and only the last ones
    # at a power loss; FULL waits for the disk at each commit. SQLite refuses to change the level
    # inside a transaction, so each transaction begins by naming its own.
    level = "FULL" if options.get(DURABLE, False) else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
