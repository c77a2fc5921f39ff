"""Defines the tables, and brings the tables of an earlier version up to date."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from partitiond.core.errors import StoreError

APPLICATION_ID: Final = 0x50415254
"""The bytes "PART" in the file header, by which `file partitiond.sqlite3` and we know the store."""
NEWEST: Final = "0004"
"""The revision of these tables, as the store's table `alembic_version` has it."""

_OPERATION: Final = """
-- What one model used by one key within one hour ("2026-01-31T17", UTC). No key is ''.
CREATE TABLE usage (
    hour VARCHAR NOT NULL, key_id VARCHAR NOT NULL, model VARCHAR NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    engine_seconds FLOAT NOT NULL, device_seconds FLOAT NOT NULL, joules FLOAT NOT NULL,
    PRIMARY KEY (hour, key_id, model)
);
-- One comparison of predicted and measured. `body` is a `LedgerEntry`.
CREATE TABLE ledger (
    sequence INTEGER NOT NULL, at VARCHAR NOT NULL, model VARCHAR NOT NULL,
    replica_id VARCHAR NOT NULL, body VARCHAR NOT NULL, PRIMARY KEY (sequence)
);
CREATE INDEX ix_ledger_model ON ledger (model);
-- A specification that a model had or has. `spec` is a `ModelSpec`.
CREATE TABLE release (
    model VARCHAR NOT NULL, version INTEGER NOT NULL, at VARCHAR NOT NULL,
    state VARCHAR NOT NULL, spec VARCHAR NOT NULL, PRIMARY KEY (model, version)
);
"""
_TABLES: Final = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
-- A registered model. `spec` is a `ModelSpec`.
CREATE TABLE model (
    name VARCHAR NOT NULL, version INTEGER NOT NULL, source_kind VARCHAR NOT NULL,
    source_ref VARCHAR NOT NULL, engine_kind VARCHAR NOT NULL, created_at VARCHAR NOT NULL,
    updated_at VARCHAR NOT NULL, spec VARCHAR NOT NULL, PRIMARY KEY (name)
);
CREATE TABLE profile (
    id VARCHAR NOT NULL, model VARCHAR NOT NULL, kind VARCHAR NOT NULL, hardware VARCHAR NOT NULL,
    size VARCHAR NOT NULL, workload VARCHAR NOT NULL, dtype VARCHAR NOT NULL,
    started_at VARCHAR NOT NULL, body VARCHAR NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX ix_profile_model ON profile (model);
-- `sequence` is the order of creation.
CREATE TABLE job (
    sequence INTEGER NOT NULL, id VARCHAR NOT NULL, kind VARCHAR NOT NULL, subject VARCHAR NOT NULL,
    state VARCHAR NOT NULL, updated_at VARCHAR NOT NULL, body VARCHAR NOT NULL,
    PRIMARY KEY (sequence), UNIQUE (id)
);
-- Plans that were applied. The greatest `sequence` is the desired one.
CREATE TABLE "plan" (
    sequence INTEGER NOT NULL, id VARCHAR NOT NULL, created_at VARCHAR NOT NULL,
    body VARCHAR NOT NULL, PRIMARY KEY (sequence)
);
-- Ids are never used twice, even after old events were dropped.
CREATE TABLE event (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    subject VARCHAR NOT NULL, message VARCHAR NOT NULL, actor VARCHAR DEFAULT '' NOT NULL
);
CREATE TABLE api_key (
    sequence INTEGER NOT NULL, id VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, body VARCHAR NOT NULL,
    PRIMARY KEY (sequence), UNIQUE (id), UNIQUE (sha256)
);
-- A setting of an operator on a subject: a cordon with its reason, a model put to sleep.
CREATE TABLE mark (
    kind VARCHAR NOT NULL, subject VARCHAR NOT NULL, value VARCHAR NOT NULL, at VARCHAR NOT NULL,
    PRIMARY KEY (kind, subject)
);
-- Numbers that only grow.
CREATE TABLE counter (
    name VARCHAR NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name)
);
"""
STEPS: Final[Mapping[str, tuple[str, str]]] = {
    "0003": ("0004", f"ALTER TABLE event ADD COLUMN actor VARCHAR DEFAULT '' NOT NULL;{_OPERATION}")
}
"""The next revision and what makes it, by revision."""


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends some that fail itself
            connection.execute("ROLLBACK")
        raise


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    with transaction(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _run(connection, _TABLES + _OPERATION)
        connection.execute("INSERT INTO alembic_version VALUES (?)", (NEWEST,))


def pending(path: Path, revision: str, steps: Mapping[str, tuple[str, str]] = STEPS) -> bool:
    """Return whether a file of this revision must be migrated.

    Raises:
        StoreError: the revision is not known here.
    """
    known = [*steps, NEWEST] + [after for after, _ in steps.values()]
    if revision not in known:
        raise StoreError(
            f"the store {path} has schema {revision}, which this version does not know; "
            f"it knows {min(known)} to {max(known)}.",
            hint="Install the version of partitiond that wrote it, or a newer one.",
            facts={"path": str(path), "schema": revision, "newest_known": max(known)},
        )
    return revision in steps


def upgrade(
    connection: sqlite3.Connection,
    revision: str,
    steps: Mapping[str, tuple[str, str]] = STEPS,
) -> None:
    """Bring the tables to the newest revision, in one transaction."""
    with transaction(connection):
        while revision in steps:
            revision, script = steps[revision]
            _run(connection, script)
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements within the transaction, which `executescript` would end. No text of theirs has
    a semicolon.
    """
    for statement in script.split(";"):
        connection.execute(statement)


def back_up(path: Path, revision: str) -> Path:
    """Copy the store and its log to "<name>.before-migration-from-<revision>"; return the copy."""
    base = f"{path.name}.before-migration-from-{revision}"
    names = [base, *(f"{base}.{number}" for number in range(2, 1000))]
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    target.touch(mode=0o600, exist_ok=False)
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    return target
