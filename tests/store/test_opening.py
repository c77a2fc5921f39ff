"""Store files that must be refused are refused, and left as they are."""

import contextlib
import hashlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.errors import StoreError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.store import open_store
from partitiond.store.schema import APPLICATION_ID, NEWEST, STEPS
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


NEXT = "ALTER TABLE model ADD COLUMN colour VARCHAR"


def test_a_migration_keeps_a_copy_first_and_one_that_fails_changes_nothing(
    file: Path, tmp_path: Path
) -> None:
    failing = {NEWEST: ("9000", f"{NEXT}; INSERT INTO nowhere VALUES (1)")}
    with pytest.raises(StoreError):
        open_store(file, steps={**STEPS, **failing})
    assert count(file) == MODELS
    for copy in tmp_path.glob("s.sqlite3.before-migration-from-*"):
        copy.unlink()
    open_store(file, steps={**STEPS, NEWEST: ("9000", NEXT)}).close()
    (copy,) = tmp_path.glob("s.sqlite3.before-migration-from-*")
    assert copy.stat().st_mode & 0o077 == 0
    assert count(copy) == MODELS
    assert "9000" in refused(file).message  # this version does not know it


def test_a_new_store_is_private_and_an_older_one_becomes_the_same(tmp_path: Path) -> None:
    path, old = tmp_path / "deep" / "er" / "s.sqlite3", tmp_path / "old.sqlite3"
    open_store(path).close()
    assert [p.name for p in path.parent.iterdir()] == ["s.sqlite3"]
    assert path.stat().st_mode & 0o077 == 0
    shutil.copy(path, old)
    with contextlib.closing(sqlite3.connect(old)) as connection, connection:
        for table in ("usage", "ledger", "release"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("ALTER TABLE event DROP COLUMN actor")
        connection.execute(
            "INSERT INTO event (at, kind, subject, message) VALUES ('t', 'k', '', '')"
        )
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    store = open_store(old)
    assert [event.actor for event in store.events()] == [""]
    store.close()
    assert schema_of(old) == schema_of(path)
    for each in (old, path):
        with contextlib.closing(sqlite3.connect(each)) as connection:
            assert connection.execute("SELECT * FROM alembic_version").fetchall() == [(NEWEST,)]
            assert connection.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]


def schema_of(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    return {name: "".join((sql or "").split()) for name, sql in rows}
