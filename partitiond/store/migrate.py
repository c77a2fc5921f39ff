"""Schema versions: which one a file has, and how it becomes the newest. Alembic inside."""

import sqlite3
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from partitiond.core.errors import StoreError
from partitiond.store.connection import APPLICATION_ID, IMMEDIATE

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def _config(migrations: Path) -> Config:
    config = Config()
    # "%" starts an interpolation in Alembic's configuration.
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_revisions(migrations: Path = MIGRATIONS) -> tuple[str, ...]:
    """All revisions of this version of partitiond, newest first."""
    scripts = ScriptDirectory.from_config(_config(migrations))
    return tuple(script.revision for script in scripts.walk_revisions())


def upgrade(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Bring the schema to the newest revision, in one transaction."""
    config = _config(migrations)
    with engine.execution_options(**{IMMEDIATE: True}).begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def pending(path: Path, revision: str, migrations: Path = MIGRATIONS) -> bool:
    """Whether a file of this revision must be migrated.

    Raises:
        StoreError: the revision is none of ours: a newer partitiond made it.
    """
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
    """Copy the store, log included, to "<name>.before-migration-from-<revision>"; return it."""
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
