"""Makes folders that are either complete or absent, even if the making is interrupted.

A folder is made beside its place under a temporary name, gets a marker that lists its files with
their sizes, and is renamed. A folder without a marker, or with a file of another size than the
marker says, counts as absent and is made again. A lock file keeps two makers apart, also those of
different daemons.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import ModelSourceError
from partitiond.models.reading import look_at

MARKER: Final = ".partitiond-complete.json"
_LOCK_POLL_SECONDS: Final = 0.2
_PUBLISH_SECONDS: Final = 3600.0
"""All files of a model are forced to its disk."""


def is_complete(folder: Path) -> bool:
    """Return whether the folder was finished and all its files have their sizes."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False  # an unreadable marker counts as none: the folder is made again


def revision_of(folder: Path) -> str | None:
    """Return the revision noted when the folder was made."""
    noted = json.loads((folder / MARKER).read_text(encoding="utf-8")).get("revision")
    return noted if isinstance(noted, str) else None


async def prepare(
    folder: Path, revision: str | None, make: Callable[[Path], Awaitable[None]]
) -> Path:
    """Return `folder`, made by `make(temporary_folder)` unless it is complete already.

    Raises:
        ModelSourceError: the disk refuses; errors of `make` pass through.
    """
    if await look_at(folder, lambda: is_complete(folder)):
        return folder
    try:
        await look_at(folder, lambda: folder.parent.mkdir(parents=True, exist_ok=True))
        async with _locked(folder.with_name(f".{folder.name}.lock")):
            # Another maker may have finished while we waited.
            if not await look_at(folder, lambda: is_complete(folder)):
                await _make(folder, revision, make)
    except OSError as error:
        raise disk_error(folder, error) from error
    return folder


async def _make(
    folder: Path, revision: str | None, make: Callable[[Path], Awaitable[None]]
) -> None:
    partial = await look_at(folder, lambda: _begun(folder))
    try:
        await make(partial)
        # Beside other looks at the folder: these may not take a slow disk for one that hangs.
        await look_at(partial, lambda: publish(partial, folder, revision), _PUBLISH_SECONDS)
    finally:
        with contextlib.suppress(ModelSourceError):  # what is left is removed by the next maker
            await look_at(partial, lambda: shutil.rmtree(partial, ignore_errors=True))


def _begun(folder: Path) -> Path:
    """Return a new folder to make one in; remove those that were begun and left."""
    prefix = f".{folder.name}.partial-"
    for stale in folder.parent.glob(f"{prefix}*"):  # under the lock nothing uses these
        shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))


def publish(partial: Path, folder: Path, revision: str | None) -> None:
    """Seal a folder that was made under another name, and put it in its place."""
    _seal(partial, revision)
    if folder.exists():  # it is incomplete, as checked before
        shutil.rmtree(folder)
    partial.rename(folder)


def _seal(folder: Path, revision: str | None) -> None:
    """Flush every file and write the marker last, so that it never covers lost data."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    folder.chmod(0o755)
    marker = {"revision": revision, "sizes": sizes}
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold an exclusive lock, which is polled, so that waiting can be cancelled."""
    file = await look_at(path.parent, lambda: path.open("a"))
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield


def disk_error(folder: Path, error: OSError) -> ModelSourceError:
    """Return the error for a disk that refused to take a model's folder."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = f"Free disk space below {folder.parent}."
    else:
        hint = f"Make sure that {folder.parent} can be written."
    return ModelSourceError(
        f"the model's folder {folder} cannot be made: {error.strerror or error}.",
        hint=hint,
        facts={"folder": str(folder), "errno": error.errno},
    )
