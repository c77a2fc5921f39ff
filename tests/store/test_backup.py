"""Backups are whole under load, refused if damaged, newer or in use, and restored in one step."""

import contextlib
import dataclasses
import gzip
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    PartitiondError,
    StoreError,
)
from partitiond.settings.schema import LoadedSettings, load_settings
from partitiond.store import StateFolderBusyError, StateLock, open_store
from partitiond.store.backup import check_backup, copying_hint, make_backup, restore
from tests.controller.samples import measured_profile

WHEN = "2026-03-01T12:00:00.000Z"


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSettings:
    """Settings of a file, on a state folder with one profile."""
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "/run/x"\n[planner]\nseed = 7\n')
    found = load_settings(config)
    with contextlib.closing(open_store(found.settings.store_path)) as store:
        store.add_profile(measured_profile("a"))
    return found


def ids(loaded: LoadedSettings) -> set[str]:
    with contextlib.closing(open_store(loaded.settings.store_path)) as store:
        return {profile.id for profile in store.profiles()}


def add(loaded: LoadedSettings, profile_id: str) -> None:
    with contextlib.closing(open_store(loaded.settings.store_path)) as store:
        store.add_profile(measured_profile("a", profile_id=profile_id))


def test_what_was_kept_comes_back_and_what_came_later_goes(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    before, file = ids(loaded), tmp_path / "b.gz"
    made = make_backup(loaded.settings, file, created_at=WHEN)
    assert (made.profiles, made.created_at) == (1, WHEN)
    assert file.stat().st_mode & 0o777 == 0o600
    add(loaded, "later")
    done = restore(loaded.settings, file)
    assert ids(loaded) == before
    assert done.kept is not None
    done.kept.replace(loaded.settings.store_path)
    assert ids(loaded) == {*before, "later"}


def test_a_backup_of_a_store_that_is_being_written_is_of_one_moment(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(loaded.settings.store_path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM profile")
        make_backup(loaded.settings, tmp_path / "b.gz", created_at=WHEN)
        writer.execute("COMMIT")
    restore(loaded.settings, tmp_path / "b.gz")
    assert len(ids(loaded)) == 1


@pytest.mark.parametrize("is_gone", [False, True])
def test_the_log_of_the_store_before_is_not_replayed_into_the_restored_one(
    loaded: LoadedSettings, tmp_path: Path, is_gone: bool
) -> None:
    """Also where it cannot be merged, as that store is gone: then it is put aside."""
    make_backup(loaded.settings, tmp_path / "b.gz", created_at=WHEN)
    store = loaded.settings.store_path
    killed = store.with_name("copy")
    with contextlib.closing(open_store(store)) as running:
        running.add_profile(dataclasses.replace(measured_profile("a"), id="in-the-log"))
        for suffix in ("", "-wal"):  # as a daemon that was killed leaves them
            killed.with_name("copy" + suffix).write_bytes(
                store.with_name(store.name + suffix).read_bytes()
            )
    for suffix in ("", "-wal"):
        killed.with_name("copy" + suffix).replace(store.with_name(store.name + suffix))
    if is_gone:
        store.unlink()
    restore(loaded.settings, tmp_path / "b.gz")
    assert not store.with_name(store.name + "-wal").exists()
    assert len(list(store.parent.glob("*-wal.before-restore-1"))) == is_gone
    assert "in-the-log" not in ids(loaded)


def test_a_running_daemon_a_file_that_is_there_and_one_that_is_not_are_refused(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    file = tmp_path / "b.gz"
    with pytest.raises(NotFoundError, match="no file"):
        restore(loaded.settings, file)
    file.write_text("mine")
    with pytest.raises(ConflictError):
        make_backup(loaded.settings, file, created_at=WHEN)
    assert file.read_text() == "mine"
    make_backup(loaded.settings, file, created_at=WHEN, replace=True)
    assert {p.name for p in tmp_path.iterdir()} == {"b.gz", "state", "config.toml"}
    with StateLock.acquire(loaded.settings.lock_path), pytest.raises(StateFolderBusyError):
        restore(loaded.settings, file)
    bare = load_settings(overrides={"state_dir": str(tmp_path / "none"), "run_dir": "/run/x"})
    with pytest.raises(NotFoundError, match="no store"):
        make_backup(bare.settings, tmp_path / "c.gz", created_at=WHEN)
    before = ids(loaded)
    loaded.settings.store_path.write_bytes(b"not a database at all, not any more" * 300)
    with pytest.raises(StoreError):
        make_backup(loaded.settings, tmp_path / "c.gz", created_at=WHEN)
    done = restore(loaded.settings, file)  # which puts a damaged store aside
    assert ids(loaded) == before
    assert done.kept is not None
    assert done.kept.read_bytes().startswith(b"not a database")


# --- files that are wrong ----------------------------------------------------------------------

Change = Callable[[bytes], bytes]


def _changed(statement: str) -> Change:
    def change(store: bytes) -> bytes:
        with contextlib.closing(sqlite3.connect(":memory:")) as opened:
            opened.deserialize(store)
            opened.execute(statement)
            opened.commit()
            return opened.serialize()

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_changed("UPDATE alembic_version SET version_num = '9999'"), "schema 9999"),
        (_changed("PRAGMA application_id = 7"), "not a store of partitiond"),
        (lambda _: b"SQLite format 3\0" + b"x" * 999, "store"),
        (lambda _: b"manifest.json" + b"\0" * 499, "is no backup"),
        (lambda _: b"", "is no backup"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_touched(
    loaded: LoadedSettings, tmp_path: Path, change: Change, told: str
) -> None:
    file = tmp_path / "b.gz"
    make_backup(loaded.settings, file, created_at=WHEN)
    add(loaded, "later")
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))
    with pytest.raises(PartitiondError, match=told):
        restore(loaded.settings, file)
    assert "later" in ids(loaded)
    left = {p.name.split(".before")[0] for p in loaded.settings.state_dir.iterdir()}
    assert left <= {"partitiond.sqlite3", "daemon.lock"}


def test_a_store_is_restored_as_it_was_and_a_bare_copy_of_one_is_taken(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    """As the store in an archive of an earlier version is."""
    bare, file = tmp_path / "store.sqlite3", tmp_path / "b.gz"
    make_backup(loaded.settings, file, created_at=WHEN)
    packed = gzip.decompress(file.read_bytes())
    bare.write_bytes(_changed("DROP TABLE backup")(packed))
    # Earlier versions noted more, and kept the settings.
    earlier = tmp_path / "earlier"
    more = "INSERT INTO backup VALUES ('config', '[planner]'), ('settings_file', '/etc/x')"
    earlier.write_bytes(_changed(more)(packed))
    for each, when in ((file, WHEN), (bare, "?"), (earlier, WHEN)):
        assert restore(loaded.settings, each).notes.created_at == when
        with contextlib.closing(sqlite3.connect(loaded.settings.store_path)) as store:
            names = [name for (name,) in store.execute("SELECT name FROM sqlite_master")]
        assert "backup" not in names
        assert len(ids(loaded)) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_broken_byte_and_no_missing_end_goes_unnoticed(
    loaded: LoadedSettings, tmp_path: Path, data: st.DataObject
) -> None:
    """Either the file is refused, or what would be restored is what was kept."""
    file, folder = tmp_path / "b.gz", tmp_path / os.urandom(4).hex()
    if not file.exists():
        make_backup(loaded.settings, file, created_at=WHEN)
    body = file.read_bytes()
    if data.draw(st.booleans()):
        broken = body[: data.draw(st.integers(0, len(body) - 1))]
    else:
        at = data.draw(st.integers(0, len(body) - 1))
        broken = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    folder.mkdir()
    wrong = folder.with_suffix(".gz")
    wrong.write_bytes(broken)
    try:
        check_backup(wrong, folder)
    except (InputError, StoreError):
        return
    kept = []
    for path in (folder / "store.sqlite3", loaded.settings.store_path):
        with contextlib.closing(sqlite3.connect(path)) as store:
            kept.append(store.execute("SELECT body FROM profile").fetchone())
    assert kept[0] == kept[1]


def test_what_to_do_about_a_copy_that_failed_fits_what_failed(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as full:
        full.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.Error) as caught:
            full.execute("CREATE TABLE t (x)")
    assert "disk is full" in str(caught.value)
    assert copying_hint(caught.value, tmp_path).startswith(f"Free some space in {tmp_path}")
    with pytest.raises(sqlite3.Error) as caught:
        sqlite3.connect(f"file:{tmp_path}/none?mode=ro", uri=True)
    assert "daemon's user" in copying_hint(caught.value, tmp_path)
