"""Keeps which head a host obeys, over restarts of its agent."""

import logging
import math
import time
from pathlib import Path
from typing import Final

from partitiond.core.errors import InputError, StoreError
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.platform.durable_file import write_durably
from partitiond.serde import from_stored_json, to_stored_json

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 10.0
"""Pause before a head that could not be kept is written again. Chosen: on a full disk that fails at
once."""


class ObeyedHead:
    """The head that a host obeys, in a file of the host's state folder.

    Args:
        path: None keeps it in memory only, for tests.
        again_seconds: pause before a head that could not be kept is written again.
    """

    def __init__(self, path: Path | None, *, again_seconds: float = AGAIN_SECONDS) -> None:
        self._path = path
        self._again_seconds = again_seconds
        self._again_at = math.inf
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

    def save(self, head: HeadSession, *, or_later: bool = False) -> None:
        """Keep a head; when this returns, a power cut does not undo it.

        Args:
            or_later: if it cannot be written, it counts until the agent ends, and `save_late`
                writes it.

        Raises:
            StoreError: it cannot be written; the former one counts.
        """
        again_at = math.inf
        if self._path is not None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_durably(self._path, to_stored_json(head).encode())
            except OSError as error:
                if not or_later:
                    raise self._unusable("written", error) from error
                if head != self._known:
                    log.warning("%s", self._unusable("written", error))
                again_at = time.monotonic() + self._again_seconds
        self._known, self._read, self._again_at = head, True, again_at

    def save_late(self) -> None:
        """Write a head that counts and could not be written, unless that was tried just now."""
        if self._known is not None and time.monotonic() >= self._again_at:
            self.save(self._known, or_later=True)

    def _unusable(self, what: str, error: Exception) -> StoreError:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return StoreError(
            f"the record of the head that this host obeys cannot be {what}: {why}.",
            hint=f"Free space, or repair or remove {self._path} on the host.",
            facts={"path": str(self._path)},
        )
