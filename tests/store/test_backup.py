"""Backups are whole under load, refused if damaged, newer or in use, and restored in one step."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.errors import ConflictError, InputError, NotFoundError, StoreError
from partitiond.fleet.profile_files import read_profile
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
    before, file = ids(loaded), tmp_path / "b.tar.gz"
    made = make_backup(loaded, file, created_at=WHEN)
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
        make_backup(loaded, tmp_path / "b.tar.gz", created_at=WHEN)
        writer.execute("COMMIT")
    restore(loaded.settings, tmp_path / "b.tar.gz")
    assert len(ids(loaded)) == 1


def test_the_log_of_the_store_before_is_not_replayed_into_the_restored_one(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    make_backup(loaded, tmp_path / "b.tar.gz", created_at=WHEN)
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
    restore(loaded.settings, tmp_path / "b.tar.gz")
    assert "in-the-log" not in ids(loaded)


def test_settings_are_written_only_when_asked_for_and_all_can_be_read_without_restoring(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    file, folder = tmp_path / "b.tar.gz", tmp_path / "unpacked"
    make_backup(loaded, file, created_at=WHEN)
    folder.mkdir()
    check_backup(file, folder)
    (profile,) = (folder / "profiles").iterdir()
    assert read_profile(profile) == measured_profile("a")
    assert json.loads((folder / "settings.json").read_text())["planner.seed"]["value"] == 7
    assert not any("token" in path.name for path in folder.rglob("*"))
    assert loaded.config_file is not None
    loaded.config_file.write_text("[planner]\nseed = 8\n")
    assert restore(loaded.settings, file).settings is None
    assert "seed = 8" in loaded.config_file.read_text()
    done = restore(loaded.settings, file, settings_file=loaded.config_file)
    assert "seed = 7" in loaded.config_file.read_text()
    assert done.settings_kept is not None
    assert "seed = 8" in done.settings_kept.read_text()


def test_a_running_daemon_a_file_that_is_there_and_one_that_is_not_are_refused(
    loaded: LoadedSettings, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar.gz"
    with pytest.raises(NotFoundError, match="no file"):
        restore(loaded.settings, file)
    file.write_text("mine")
    with pytest.raises(ConflictError):
        make_backup(loaded, file, created_at=WHEN)
    assert file.read_text() == "mine"
    make_backup(loaded, file, created_at=WHEN, replace=True)
    assert {p.name for p in tmp_path.iterdir()} == {"b.tar.gz", "state", "config.toml"}
    with StateLock.acquire(loaded.settings.lock_path), pytest.raises(StateFolderBusyError):
        restore(loaded.settings, file)
    bare = load_settings(overrides={"state_dir": str(tmp_path / "none"), "run_dir": "/run/x"})
    with pytest.raises(NotFoundError, match="no store"):
        make_backup(bare, tmp_path / "c.tar.gz", created_at=WHEN)
    before = ids(loaded)
    loaded.settings.store_path.write_bytes(b"not a database at all, not any more" * 300)
    with pytest.raises(StoreError):
        make_backup(loaded, tmp_path / "c.tar.gz", created_at=WHEN)
    done = restore(loaded.settings, file)  # which puts a damaged store aside
    assert ids(loaded) == before
    assert done.kept is not None
    assert done.kept.read_bytes().startswith(b"not a database")


# --- files that are wrong ----------------------------------------------------------------------

Change = Callable[[dict[str, bytes]], None]


def forged(file: Path, change: Change, *, consistent: bool = True) -> None:
    """Rewrite a backup: its members changed, its manifest made to fit them or not."""
    with tarfile.open(file) as archive:
        members = {m.name: (archive.extractfile(m) or io.BytesIO()).read() for m in archive}
    change(members)
    if consistent:
        manifest = json.loads(members["manifest.json"])
        manifest["files"] = {
            name: (len(body), hashlib.sha256(body).hexdigest())
            for name, body in members.items()
            if name != "manifest.json"
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(file, "w:gz") as archive:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))


def _manifest(**changes: object) -> Change:
    def change(members: dict[str, bytes]) -> None:
        told = {**json.loads(members["manifest.json"]), **changes}
        members["manifest.json"] = json.dumps(told).encode()

    return change


def _newer_schema(members: dict[str, bytes]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as store:
        store.deserialize(members["store.sqlite3"])
        store.execute("UPDATE alembic_version SET version_num = '9999'")
        store.commit()
        members["store.sqlite3"] = store.serialize()


def _outside(members: dict[str, bytes]) -> None:
    members["../../evil"] = b"x"


def _bad_settings(members: dict[str, bytes]) -> None:
    members["config.toml"] = b"[planner]\nsead = 1\n"


@pytest.mark.parametrize(
    ("change", "consistent", "told"),
    [
        (_manifest(format=2), False, "has format 2"),
        (_manifest(files=[]), False, "manifest cannot be read"),
        (lambda m: m.update({"store.sqlite3": b"x" * 10}), False, "bytes instead of"),
        (lambda m: m.pop("store.sqlite3"), False, "store.sqlite3 is missing"),
        (lambda m: m.pop("store.sqlite3"), True, "holds no store"),
        (lambda m: m.update({"settings.json": b"0" * 50_000_000}), False, "bytes instead of"),
        (lambda m: m.pop("manifest.json"), False, "is no backup"),
        (_outside, True, "does not belong"),
        (_newer_schema, True, "schema 9999"),
        (_bad_settings, True, "sead"),
        (lambda m: m.update({"store.sqlite3": b"SQLite format 3\0" + b"x" * 999}), True, "store"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_touched(
    loaded: LoadedSettings, tmp_path: Path, change: Change, consistent: bool, told: str
) -> None:
    file = tmp_path / "b.tar.gz"
    make_backup(loaded, file, created_at=WHEN)
    add(loaded, "later")
    forged(file, change, consistent=consistent)
    with pytest.raises((InputError, StoreError), match=told):
        restore(loaded.settings, file, settings_file=loaded.config_file)
    assert "later" in ids(loaded)
    left = {p.name.split(".before")[0] for p in loaded.settings.state_dir.iterdir()}
    assert left <= {"partitiond.sqlite3", "daemon.lock"}
    assert not (tmp_path.parent / "evil").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_broken_byte_and_no_missing_end_goes_unnoticed(
    loaded: LoadedSettings, tmp_path: Path, data: st.DataObject
) -> None:
    """Either the file is refused, or what would be restored is what was kept."""
    file, folder = tmp_path / "b.tar.gz", tmp_path / os.urandom(4).hex()
    if not file.exists():
        make_backup(loaded, file, created_at=WHEN)
    body = file.read_bytes()
    if data.draw(st.booleans()):
        broken = body[: data.draw(st.integers(0, len(body) - 1))]
    else:
        at = data.draw(st.integers(0, len(body) - 1))
        broken = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    folder.mkdir()
    wrong = folder.with_suffix(".tar.gz")
    wrong.write_bytes(broken)
    try:
        check_backup(wrong, folder)
    except InputError:
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
