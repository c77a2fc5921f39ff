"""Replaces a file so that a power cut leaves the new or the old one, never a part of one."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def write_durably(path: Path, data: bytes, drafted: Callable[[], None] = lambda: None) -> None:
    """Replace a file; when this returns, a power cut does not undo it. Blocks.

    The file is readable by its owner only.

    Args:
        drafted: called once the new file is on disk, beside the old one.

    Raises:
        OSError: the folder is missing or cannot be written; the old file is still there.
    """
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    drafted()
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync folders
            os.fsync(folder)
    finally:
        os.close(folder)
