"""Makes and restores backups: a daemon's registrations and measurements in one checked file.

A backup is a gzip'ed tar of

    manifest.json        format, versions, and size and SHA-256 of every other member; comes first
    store.sqlite3        the store, copied by SQLite's online backup: consistent under load
    profiles/*.json      its profiles, readable without this version of partitiond
    config.toml          the settings file that was in use, if there was one
    settings.json        all settings as they were in effect, to read

A backup holds no admin token (a daemon makes a new one), and nothing of the host: a daemon finds
running engines and changed devices again by looking.

Restoring checks the whole backup before anything is touched, and puts the store into place with
one rename; the former store is kept beside it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from partitiond import __version__
from partitiond.core.errors import ConflictError, InputError, NotFoundError, StoreError
from partitiond.serde import VERSION_FIELD
from partitiond.settings.schema import LoadedSettings, Settings, load_settings, settings_values
from partitiond.store.backup_file import CONFIG, EFFECTIVE, FORMAT, STORE, Manifest, pack, unpack
from partitiond.store.lock import StateLock
from partitiond.store.migrate import pending
from partitiond.store.opening import inspect_store


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore.

    Attributes:
        store: the file that is in place now.
        kept: the former store, under another name; None if there was none.
        migrates: whether the next start of a daemon updates the schema.
        settings: the settings file that was written; None if none was asked for.
        settings_kept: the former settings file, under another name; None if there was none.
        head: whether it is the store of a head of other hosts.
    """

    manifest: Manifest
    store: Path
    kept: Path | None
    migrates: bool
    settings: Path | None
    settings_kept: Path | None
    head: bool


# --- making one ------------------------------------------------------------------------------


def make_backup(
    loaded: LoadedSettings, target: Path, *, created_at: str, replace: bool = False
) -> Manifest:
    """Write a backup; the daemon may run meanwhile. A failure leaves nothing behind.

    Raises:
        NotFoundError: there is no store yet.
        ConflictError: the file exists, and `replace` is False.
        StoreError: the store is damaged, or not readable.
        InputError: the target cannot be written.
    """
    settings = loaded.settings
    if not settings.store_path.exists():
        raise NotFoundError(
            f"there is no store {settings.store_path}: no daemon ever ran on this state folder.",
            hint="Name the state folder with --state-dir.",
        )
    if target.exists() and not replace:
        raise ConflictError(f"{target} exists.", hint="Choose another name, or add --force.")
    with _writing(target), tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as d:
        folder = Path(d)
        schema = _copy_store(settings.store_path, folder / STORE)
        profiles = _export_profiles(folder / STORE, folder / "profiles")
        _copy_settings(loaded, folder)
        manifest = Manifest(
            format=FORMAT,
            partitiond=__version__,
            schema=schema,
            created_at=created_at,
            settings_file=str(loaded.config_file or ""),
            profiles=profiles,
            files=_sums(folder),
        )
        draft = folder / "backup.tar.gz"
        pack(manifest, folder, draft)
        draft.replace(target)
        _sync_folder(target.parent)
    return manifest


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}.",
            hint="Choose a folder that exists and is writable for this user, with space enough.",
        ) from error


def _copy_store(store: Path, copy: Path) -> str:
    """Make a consistent copy as one file and check it; return its schema."""
    copy.touch(mode=0o600)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as sink,
        ):
            source.backup(sink)
            sink.execute("PRAGMA journal_mode = DELETE")  # one file, no log beside it
    except sqlite3.Error as error:
        raise StoreError(
            f"the store {store} cannot be copied: {error}.",
            hint=copying_hint(error, copy.parent.parent),
            facts={"path": str(store)},
        ) from error
    return inspect_store(copy)


def copying_hint(error: sqlite3.Error, target: Path) -> str:
    """Return a hint for a store that could not be copied to this folder."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return f"Free some space in {target}, or choose a folder on another disk."
    if name.startswith("SQLITE_IOERR"):
        return f"See that {target} and the store's disk have space and no errors."
    if name in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
        return "The store is damaged: `partitiond setup restore FILE` puts an earlier backup back."
    if name in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
        return "Another process holds the store; try again in a moment."
    return "Run it as the daemon's user, who may read the store."


def _export_profiles(store: Path, folder: Path) -> int:
    folder.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(store)) as connection:
        rows = connection.execute("SELECT id, body FROM profile ORDER BY started_at, id").fetchall()
    for number, (profile_id, body) in enumerate(rows, start=1):
        safe = re.sub(r"[^\w.@+=-]", "_", str(profile_id), flags=re.ASCII)[:150]
        text = _without_version(str(body))
        (folder / f"{number:05d}-{safe}.json").write_text(text, encoding="utf-8")
    return len(rows)


def _without_version(body: str) -> str:
    """Return a stored profile as a profile file; an unreadable profile is left as it is."""
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(body)
        if isinstance(fields, dict) and fields.pop(VERSION_FIELD, None) is not None:
            return json.dumps(fields, ensure_ascii=False)
    return body


def _copy_settings(loaded: LoadedSettings, folder: Path) -> None:
    values = {
        key: {"value": value, "from": loaded.origins.get(key, "default")}
        for key, value in settings_values(loaded.settings).items()
    }
    (folder / EFFECTIVE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if loaded.config_file is not None:
        shutil.copyfile(loaded.config_file, folder / CONFIG)


def _sums(folder: Path) -> dict[str, tuple[int, str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, _sha256(path)) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- restoring -------------------------------------------------------------------------------


def restore(settings: Settings, file: Path, *, settings_file: Path | None = None) -> Restored:
    """Put a backup's store into the state folder; no daemon may run on it.

    Args:
        settings: they name the state folder.
        file: the backup.
        settings_file: where to write the backup's settings file to; None leaves settings alone.

    Raises:
        StateFolderBusyError: a daemon runs.
        NotFoundError, InputError: as `unpack`.
        StoreError: the backup's store is damaged, or of a newer schema than this version knows.
        SettingsError: the backup's settings file is not valid here.
    """
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}.", hint="Check the path.")
    with (
        StateLock.acquire(settings.lock_path),
        tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.state_dir) as made,
    ):
        folder = Path(made)
        manifest = unpack(file, folder)
        migrates = _check(folder, write_settings=settings_file is not None, file=file)
        owner = settings.state_dir.stat()
        settings_kept, head = None, _is_head(folder / STORE)
        if settings_file is not None:
            settings_kept = _place(folder / CONFIG, settings_file)
        _retire_log(settings.store_path)
        if os.geteuid() == 0:  # root restores for the daemon's user
            os.chown(folder / STORE, owner.st_uid, owner.st_gid)
            os.chown(settings.lock_path, owner.st_uid, owner.st_gid)
        kept = _place(folder / STORE, settings.store_path)
    return Restored(
        manifest, settings.store_path, kept, migrates, settings_file, settings_kept, head
    )


def _is_head(store: Path) -> bool:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT 1 FROM mark WHERE kind = 'head'").fetchone() is not None


def check_backup(file: Path, folder: Path) -> tuple[Manifest, bool]:
    """Check a backup as `restore` does; return whether its store would be migrated."""
    manifest = unpack(file, folder)
    return manifest, _check(folder, write_settings=(folder / CONFIG).exists(), file=file)


def _check(folder: Path, *, write_settings: bool, file: Path) -> bool:
    """Check an unpacked backup; return whether its schema is older than the present one."""
    store = folder / STORE
    migrates = pending(store, inspect_store(store))
    if write_settings:
        if not (folder / CONFIG).exists():
            raise NotFoundError(
                f"{file} holds no settings file: none was in use when it was made.",
                hint=f"Leave out --with-settings; {EFFECTIVE} in it shows what was in effect.",
            )
        load_settings(folder / CONFIG)
    return migrates


def _retire_log(store: Path) -> None:
    """Merge the present store's log into that store, so that no other store gets the log later.

    SQLite would replay a remaining log into the restored store, and damage it. If the present
    store is too damaged for the merge, its log is put aside.
    """
    if not store.exists():
        return
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(store)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.execute("PRAGMA journal_mode = DELETE")
    for suffix in ("-wal", "-shm"):
        left = store.with_name(store.name + suffix)
        if left.exists():
            left.replace(_free_name(left))


def _place(new: Path, target: Path) -> Path | None:
    """Put a file into place by one rename; keep the former file, and return its new path."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.restoring")
    # The new file may have been unpacked on another disk than that of the target.
    shutil.copyfile(new, draft)
    shutil.copystat(new, draft)
    if os.geteuid() == 0:
        found = new.stat()
        os.chown(draft, found.st_uid, found.st_gid)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    kept = None
    if target.exists():
        kept = _free_name(target)
        os.link(target, kept)
    draft.replace(target)
    _sync_folder(target.parent)
    return kept


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.before-restore-{n}") for n in range(1, 10_000))
    return next(name for name in names if not name.exists())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
