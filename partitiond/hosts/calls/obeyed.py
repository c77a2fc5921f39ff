"""Keeps which head a host obeys, over restarts of its agent."""

import dataclasses
from pathlib import Path

from partitiond.core.errors import InputError, StoreError
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.platform.durable_file import write_durably
from partitiond.serde import read_stored, to_stored_json


class ObeyedHead:
    """The head that a host obeys, in a file of the host's state folder.

    The file is written once for each head and epoch. Which start of its daemon is obeyed is known
    until the agent ends: the next agent obeys the start that asks first, and each later one.

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
                kept = read_stored(HeadSession, self._path)
            except (InputError, OSError) as error:
                raise self._unusable("read", error) from error
            self._known = dataclasses.replace(kept, start=0, session="") if kept else None
            self._read = True
        return self._known

    def save(self, head: HeadSession) -> None:
        """Keep a head; when this returns, a power cut does not undo it.

        Raises:
            StoreError: it cannot be written; the former one counts.
        """
        known = self.load()
        is_kept = known is not None and (known.id, known.epoch) == (head.id, head.epoch)
        if self._path is not None and not is_kept:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_durably(self._path, to_stored_json(head).encode())
            except OSError as error:
                raise self._unusable("written", error) from error
        self._known = head

    def _unusable(self, what: str, error: Exception) -> StoreError:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return StoreError(
            f"the record of the head that this host obeys cannot be {what}: {why}.",
            hint=f"Free space, or repair or remove {self._path} on the host.",
            facts={"path": str(self._path)},
        )
