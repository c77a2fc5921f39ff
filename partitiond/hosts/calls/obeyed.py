"""Keeps which head a host obeys, over restarts of its agent."""

import contextlib
import os
from pathlib import Path

from partitiond.core.errors import InputError, StoreError
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.serde import from_stored_json, to_stored_json


class ObeyedHead:
    """The head that a host obeys, in a file of the host's state folder.

    Args:
        path: None keeps it in memory only, for tests.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: HeadSession | None = None
        self._read = path is None

    def load(self) -> HeadSession | None:
        """Return the head; None if the host never obeyed one.

        Raises:
            StoreError: there is a record, and it cannot be read: whom to obey is not known.
        """
        if not self._read and self._path is not None:
            try:
                self._known = from_stored_json(HeadSession, self._path.read_bytes())
            except FileNotFoundError:
                self._known = None
            except (OSError, InputError) as error:
                raise self._unusable("read", error) from error
            self._read = True
        return self._known

    def save(self, head: HeadSession) -> None:
        """Keep a head; when this returns, a power cut does not undo it.

        Raises:
            StoreError: it cannot be written; the former one counts.
        """
        if self._path is not None:
            try:
                _replace_synced(self._path, to_stored_json(head).encode())
            except OSError as error:
                raise self._unusable("written", error) from error
        self._known, self._read = head, True

    def _unusable(self, what: str, error: Exception) -> StoreError:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return StoreError(
            f"the record of the head that this host obeys cannot be {what}: {why}.",
            hint=f"Free space, or repair or remove {self._path} on the host.",
            facts={"path": str(self._path)},
        )


def _replace_synced(path: Path, data: bytes) -> None:
    """Replace a file so that a power cut leaves the new or the old one, never a part of one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync folders
            os.fsync(folder)
    finally:
        os.close(folder)
