"""Nothing is acknowledged that is written into files which are no longer the store's."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.core.errors import NotFoundError, StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.store import open_store
from partitiond.store.connection import connect
from tests.store.make import make_record


def moved(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replaced(file: Path) -> None:
    shutil.copy(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("harm", [moved, replaced, Path.unlink])
def test_no_write_is_acknowledged_until_the_files_are_back(
    tmp_path: Path, suffix: str, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "s.sqlite3"
    store = open_store(path)
    store.add_model(make_record())
    assert store.problem == ""
    file = path.with_name(path.name + suffix)
    kept = tmp_path / "kept"
    kept.hardlink_to(file)
    harm(file)
    assert file.name in store.problem
    with pytest.raises(StoreError, match=file.name):
        store.add_key(KeyRecord(id="k1", sha256="a" * 64, created_at="t"))
    with pytest.raises(StoreError, match=file.name):
        store.wait_until_writable(1)  # a connection would remove the log
    store._count(1)  # another thread's connection, which comes and goes
    store._count(-1)
    with pytest.raises(StoreError, match=file.name):
        store.add_event("t", "kind", "subject", "what partitiond notes by itself")
    assert [record.spec.name for record in store.models()] == ["opt-125m"], "reads go on"
    with pytest.raises(NotFoundError):
        store.key("k1")
    kept.replace(file)
    assert store.problem == ""
    store.add_key(KeyRecord(id="k2", sha256="b" * 64, created_at="t"))
    store.close()
    store = open_store(path)
    assert [key.id for key in tuple(store.keys())] == ["k2"]
    store.close()


def test_a_connection_makes_no_store_and_removes_no_log(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    store = open_store(path)
    store.add_model(make_record())
    moved(path)
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_ino
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        connect(path, 1).execute("BEGIN IMMEDIATE")
    assert (path.exists(), log.stat().st_ino) == (False, before)
    store.close()


def test_a_log_that_sqlite_makes_anew_is_no_other_file(tmp_path: Path) -> None:
    """As it does where a connection broke, and was the last one."""
    store = open_store(tmp_path / "s.sqlite3")
    store.add_model(make_record())
    (tmp_path / "its inode stays in use").hardlink_to(tmp_path / "s.sqlite3-wal")
    store._engine.dispose()
    store.add_key(KeyRecord(id="k1", sha256="a" * 64, created_at="t"))
    assert store.problem == ""
    store.close()
