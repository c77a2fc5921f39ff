"""Store files that must be refused are refused, and left as they are."""

import contextlib
import hashlib
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlmodel import SQLModel

from partitiond.core.errors import StoreError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.store import open_store
from partitiond.store.connection import APPLICATION_ID, make_engine
from partitiond.store.migrate import MIGRATIONS, NEWEST, create, known_revisions, upgrade
from tests.store.holder import locked

MODELS = 200
"""So many that they take several pages."""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something in it, closed."""
    path = tmp_path_factory.mktemp("whole") / "s.sqlite3"
    store = open_store(path)
    for number in range(MODELS):
        source = ModelSource(SourceKind.HUB, f"org/{number}")
        store.add_model(ModelRecord(ModelSpec(f"model-{number}", source), 1, "t", "t"))
    store.close()
    return path


@pytest.fixture
def file(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path))


def count(path: Path) -> int:
    store = open_store(path)
    try:
        return len(store.models())
    finally:
        store.close()


def refused(path: Path, *, busy_timeout_seconds: float = 0.1) -> StoreError:
    before = digest(path)
    with pytest.raises(StoreError) as caught:
        open_store(path, busy_timeout_seconds=busy_timeout_seconds)
    assert digest(path) == before
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_file_that_is_no_whole_store_is_refused(file: Path) -> None:
    content = file.read_bytes()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    error = refused(file)
    assert "9999" in error.message
    assert "newer" in error.hint
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA application_id = 7")
    assert "not a store of partitiond" in refused(file).message
    for body, told in (
        (b"this is a text, not a database" * 1000, "not a SQLite database"),
        (b"", "empty"),
        (content[: len(content) // 2], "damaged"),
        (content[:50], ""),
        (content[:4096] + b"\x5a" * (16384 - 4096) + content[16384:], "damaged"),
    ):
        file.write_bytes(body)
        assert told in refused(file).message


@given(noise=st.binary(min_size=1, max_size=64), place=st.floats(0, 1))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused_or_harmless(
    file: Path, tmp_path: Path, noise: bytes, place: float
) -> None:
    """Never another exception, never a changed file; where pages still fit, it may be read."""
    content = bytearray(file.read_bytes())
    at = int(place * (len(content) - len(noise)))
    content[at : at + len(noise)] = noise
    path = tmp_path / "noisy.sqlite3"
    path.write_bytes(content)
    before = digest(path)
    try:
        store = open_store(path, busy_timeout_seconds=0.1)
    except StoreError:
        assert digest(path) == before
        return
    try:
        store.models()
    except StoreError:
        pass
    finally:
        store.close()


def test_a_log_without_its_store_and_a_folder_that_cannot_be_made_are_refused(file: Path) -> None:
    log = file.with_name(file.name + "-wal")
    log.write_bytes(b"x")
    moved = file.rename(file.with_name("moved"))
    with pytest.raises(StoreError, match="missing"):
        open_store(file)
    assert not file.exists()
    with pytest.raises(StoreError, match="cannot be made") as caught:
        open_store(moved / "s.sqlite3")
    assert "state_dir" in caught.value.hint


def test_a_lock_of_another_process_is_named(file: Path) -> None:
    with locked(file, "PRAGMA locking_mode = EXCLUSIVE"):
        assert "locked by another process" in refused(file).message
    assert count(file) == MODELS


def newer_migrations(tmp_path: Path, body: str) -> Path:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "r9000_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '9000'\ndown_revision = '{known_revisions()[0]}'\n"
        "def upgrade():\n"
        "    op.add_column('model', sa.Column('colour', sa.String(), nullable=True))\n"
        f"    {body}\n"
    )
    return folder


def test_a_migration_keeps_a_copy_first_and_one_that_fails_changes_nothing(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "failing").mkdir()
    failing = newer_migrations(tmp_path / "failing", "op.execute('INSERT INTO nowhere VALUES (1)')")
    other = Path(shutil.copy(file, tmp_path / "failing"))
    with pytest.raises(StoreError):
        open_store(other, migrations=failing)
    assert count(other) == MODELS
    migrations = newer_migrations(tmp_path, "pass")
    open_store(file, migrations=migrations).close()
    (copy,) = tmp_path.glob("s.sqlite3.before-migration-from-*")
    assert copy.stat().st_mode & 0o077 == 0
    assert count(copy) == MODELS
    assert "9000" in refused(file).message  # this version does not know it


def test_a_new_store_is_private_and_what_the_migrations_make_of_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s.sqlite3"
    open_store(path).close()
    assert [p.name for p in path.parent.iterdir()] == ["s.sqlite3"]
    assert path.stat().st_mode & 0o077 == 0
    for name in "ab":
        (tmp_path / name).touch()
    made, migrated = make_engine(tmp_path / "a", 1), make_engine(tmp_path / "b", 1)
    create(made)
    upgrade(migrated)
    assert known_revisions()[0] == NEWEST
    assert schema_of(made) == schema_of(migrated)
    for engine in (made, migrated):
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT * FROM alembic_version").all() == [(NEWEST,)]
            assert connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, SQLModel.metadata) == []
        engine.dispose()


def schema_of(engine: Engine) -> dict[str, str]:
    """Statement by name, however its spaces and quotes are."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master").all()
    return {name: re.sub(r'[\s"]', "", sql or "") for name, sql in rows}


def test_a_store_of_the_newest_schema_is_opened_without_alembic(tmp_path: Path) -> None:
    program = (
        "import sys; from partitiond.store import open_store\n"
        "for _ in range(2): open_store(sys.argv[1]).close()\n"
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "s.sqlite3")], check=True)
