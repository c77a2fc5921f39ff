"""Makes and restores backups: a compressed copy of the store.

SQLite's online backup copies the store as of one moment, while a daemon writes it. The copy has
one table more, `backup`: when and by which version it was made. gzip's
checksum finds a broken byte, SQLite's check what is no store.

A backup holds no admin token (a daemon makes a new one), and nothing of the host: a daemon finds
running engines and changed devices again by looking.

Restoring checks the whole backup before anything is touched, and puts the store into place with
one rename; the former store is kept beside it.
"""

import contextlib
import dataclasses
import gzip
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond import __version__
from partitiond.core.errors import ConflictError, InputError, NotFoundError, StoreError
from partitiond.settings.schema import Settings
from partitiond.store.lock import StateLock
from partitiond.store.migrate import pending
from partitiond.store.opening import inspect_store

STORE: Final = "store.sqlite3"
GZIP_MAGIC: Final = b"\x1f\x8b"
SQLITE_MAGIC: Final = b"SQLite format 3\x00"


@dataclasses.dataclass(frozen=True, slots=True)
class BackupNotes:
    """What a backup says of itself; a bare copy of a store says nothing.

    Attributes:
        schema: schema of the store.
        profiles: the number of profiles in the store.
        partitiond: version of partitiond that made the backup.
        created_at: time of the backup, UTC, ISO 8601.
    """

    schema: str
    profiles: int
    partitiond: str = "?"
    created_at: str = "?"


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore.

    Attributes:
        store: the file that is in place now.
        kept: the former store, under another name; None if there was none.
        migrates: whether the next start of a daemon updates the schema.
        head: whether it is the store of a head of other hosts.
    """

    notes: BackupNotes
    store: Path
    kept: Path | None
    migrates: bool
    head: bool


# --- making one ------------------------------------------------------------------------------


def make_backup(
    settings: Settings, target: Path, *, created_at: str, replace: bool = False
) -> BackupNotes:
    """Write a backup; the daemon may run meanwhile. A failure leaves nothing behind.

    Raises:
        NotFoundError: there is no store yet.
        ConflictError: the file exists, and `replace` is False.
        StoreError: the store is damaged, or not readable.
        InputError: the target cannot be written.
    """
    if not settings.store_path.exists():
        raise NotFoundError(
            f"there is no store {settings.store_path}: no daemon ever ran on this state folder.",
            hint="Name the state folder with --state-dir.",
        )
    if target.exists() and not replace:
        raise ConflictError(f"{target} exists.", hint="Choose another name, or add --force.")
    with _writing(target), tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as d:
        copy, draft = Path(d) / STORE, Path(d) / "draft"
        schema = _copy_store(settings.store_path, copy)
        notes = BackupNotes(
            schema=schema,
            profiles=_profiles(copy),
            partitiond=__version__,
            created_at=created_at,
        )
        _write_notes(copy, notes)
        _compress(copy, draft)
        draft.replace(target)
        _sync_folder(target.parent)
    return notes


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


def _profiles(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT count(*) FROM profile").fetchone()[0])


def _write_notes(store: Path, notes: BackupNotes) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("CREATE TABLE backup (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        rows = [(name, str(value)) for name, value in dataclasses.asdict(notes).items()]
        connection.executemany("INSERT INTO backup VALUES (?, ?)", rows)


def _take_notes(store: Path) -> BackupNotes:
    """Read the notes of an unpacked backup, and leave its store without them."""
    known = {field.name for field in dataclasses.fields(BackupNotes)} - {"schema", "profiles"}
    schema, profiles = inspect_store(store), _profiles(store)
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'backup'").fetchone()
        rows = connection.execute("SELECT name, value FROM backup").fetchall() if there else []
        connection.execute("DROP TABLE IF EXISTS backup")
    found = {str(name): str(value) for name, value in rows if name in known}
    return BackupNotes(schema, profiles, **found)


def _compress(store: Path, draft: Path) -> None:
    draft.touch(mode=0o600)
    with draft.open("wb") as file:
        with store.open("rb") as content, gzip.GzipFile(fileobj=file, mode="wb") as packed:
            shutil.copyfileobj(content, packed)
        file.flush()
        os.fsync(file.fileno())


# --- restoring -------------------------------------------------------------------------------


def restore(settings: Settings, file: Path) -> Restored:
    """Put a backup's store into the state folder; no daemon may run on it.

    Args:
        settings: they name the state folder.
        file: the backup.

    Raises:
        StateFolderBusyError: a daemon runs.
        NotFoundError: there is no such file.
        InputError: the file is not a backup, or is damaged.
        StoreError: the backup's store is damaged, or of a newer schema than this version knows.
    """
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}.", hint="Check the path.")
    with (
        StateLock.acquire(settings.lock_path),
        tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.state_dir) as made,
    ):
        folder = Path(made)
        notes, migrates = check_backup(file, folder)
        owner = settings.state_dir.stat()
        head = _is_head(folder / STORE)
        _retire_log(settings.store_path)
        if os.geteuid() == 0:  # root restores for the daemon's user
            os.chown(folder / STORE, owner.st_uid, owner.st_gid)
            os.chown(settings.lock_path, owner.st_uid, owner.st_gid)
        kept = _place(folder / STORE, settings.store_path)
    return Restored(notes, settings.store_path, kept, migrates, head)


def _is_head(store: Path) -> bool:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT 1 FROM mark WHERE kind = 'head'").fetchone() is not None


def check_backup(file: Path, folder: Path) -> tuple[BackupNotes, bool]:
    """Unpack a backup into a folder and check it; return whether its store would be migrated."""
    store = folder / STORE
    _unpack(file, store)
    notes = _take_notes(store)
    return notes, pending(store, notes.schema)


def _unpack(file: Path, store: Path) -> None:
    try:
        with file.open("rb") as raw:
            packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        store.touch(mode=0o600)
        with (gzip.open if packed else open)(file, "rb") as content, store.open("wb") as copy:
            shutil.copyfileobj(content, copy)
        with store.open("rb") as written:
            magic = written.read(len(SQLITE_MAGIC))
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(
            f"{file} is damaged: {error}.",
            hint="Nothing was changed. Take another copy of it, or an earlier backup.",
            facts={"file": str(file)},
        ) from error
    except OSError as error:
        raise InputError(
            f"{file} cannot be unpacked: {error.strerror or error}.",
            hint="See that it is readable, and that the state folder's disk has space.",
        ) from error
    if magic != SQLITE_MAGIC:
        raise InputError(
            f"{file} is no backup of partitiond.",
            hint="Give a file that `partitiond setup backup` wrote. Of an archive (.tar.gz) of an "
            "earlier version, restore the store.sqlite3 in it.",
        )


def _retire_log(store: Path) -> None:
    """Merge the present store's log into that store, so that no other store gets the log later.

    SQLite would replay a remaining log into the restored store, and damage it. If the present
    store is gone, or too damaged for the merge, its log is put aside.
    """
    uri = f"{store.absolute().as_uri()}?mode=rw"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(uri, uri=True)) as old,
    ):
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
