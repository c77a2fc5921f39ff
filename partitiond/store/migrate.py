"""Reads a file's schema version, and migrates the file to the newest.

Alembic migrates what an older version wrote. A store that is new, or of the newest revision
already, does without Alembic, because loading it is a fifth of a daemon's start.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine
from sqlmodel import SQLModel

import partitiond.store.tables  # noqa: F401 - fills the metadata
from partitiond.core.errors import StoreError
from partitiond.store.connection import APPLICATION_ID, IMMEDIATE

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"
NEWEST: Final = "0004"
"""The revision of `tables`."""
_REVISION_TABLE: Final = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)"""


def _config(migrations: Path) -> "Config":
    from alembic.config import Config

    config = Config()
    # "%" starts an interpolation in Alembic's configuration.
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_revisions(migrations: Path = MIGRATIONS) -> tuple[str, ...]:
    """Return all revisions of this version of partitiond, newest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(migrations))
    return tuple(script.revision for script in scripts.walk_revisions())


def create(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Make the newest schema in an empty file, in one transaction, as all migrations would."""
    if migrations != MIGRATIONS:
        upgrade(engine, migrations)
        return
    with engine.execution_options(**{IMMEDIATE: True}).begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        SQLModel.metadata.create_all(connection)
        connection.exec_driver_sql(_REVISION_TABLE)
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (NEWEST,))


def upgrade(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Bring the schema to the newest revision, in one transaction.

    Raises:
        StoreError: a migration cannot be carried out. Nothing was changed.
    """
    from alembic import command

    config = _config(migrations)
    with engine.execution_options(**{IMMEDIATE: True}).begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        config.attributes["connection"] = connection
        with _refused(str(engine.url.database)):
            command.upgrade(config, "head")


@contextlib.contextmanager
def _refused(path: str) -> Iterator[None]:
    """Raise StoreError for Alembic's refusals."""
    from alembic.util import CommandError

    try:
        yield
    except CommandError as error:
        raise StoreError(
            f"the store {path} cannot be migrated: {error}.",
            hint="It was not changed. Install the version of partitiond that wrote it.",
            facts={"path": path},
        ) from error


def pending(path: Path, revision: str, migrations: Path = MIGRATIONS) -> bool:
    """Return whether a file of this revision must be migrated.

    Raises:
        StoreError: the revision is not known: a newer partitiond made it.
    """
    if revision == NEWEST and migrations == MIGRATIONS:
        return False
    with _refused(str(path)):
        known = known_revisions(migrations)
    if revision not in known:
        raise StoreError(
            f"the store {path} has schema {revision}, which this version does not know; "
            f"it knows up to {known[0]}.",
            hint="Install the version of partitiond that wrote it, or a newer one.",
            facts={"path": str(path), "schema": revision, "newest_known": known[0]},
        )
    return revision != known[0]


def back_up(path: Path, revision: str) -> Path:
    """Copy the store and its log to "<name>.before-migration-from-<revision>"; return the copy."""
    base = f"{path.name}.before-migration-from-{revision}"
    names = [base, *(f"{base}.{number}" for number in range(2, 1000))]
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    target.touch(mode=0o600, exist_ok=False)
    source, copy = sqlite3.connect(path), sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    return target
