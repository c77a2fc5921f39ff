"""Writes files that their owner alone may read, and refuses those that others may."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from partitiond.core.errors import PartitiondError, SettingsError


def make_private(folder: Path) -> None:
    """Make a folder and those above it, mode 0700. Root makes them for whoever owns the one above.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_private(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        above = folder.parent.stat()
        os.chown(folder, above.st_uid, above.st_gid, follow_symlinks=False)


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, mode 0600, in place of whatever has its name.

    Root writes it for the owner of the folder: an administrator's command makes files that the
    daemon reads as its own user.

    Raises:
        OSError: the folder cannot be written.
    """
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fsync(descriptor)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(
    what: str, path: Path, hint: str, kind: type[PartitiondError] = SettingsError
) -> Iterator[None]:
    """Raise an error of this kind if what the block writes cannot be written."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"{what} cannot be written to {path}: {error.strerror or error}.",
            hint=hint,
            facts={"path": str(path)},
        ) from error


def refuse_open(
    path: Path, mode: int, what: str, remedy: str, kind: type[PartitiondError] = SettingsError
) -> None:
    """Refuse a file that others may read, by an error of this kind.

    Args:
        mode: of the file.
        what: the file is, in words.
        remedy: what to do if another user has read it.
    """
    if mode & 0o077:
        raise kind(
            f"others than its owner may read {path}, {what}.",
            hint=f"Run `chmod 600 {path}`; if another user may have read it, {remedy}.",
            facts={"path": str(path)},
        )
