"""Reads files again when they change, such as certificates that are renewed."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from partitiond.core.errors import SettingsError

RELOAD_SECONDS: Final = 2.0
"""Shortest time between two looks at the files."""

T = TypeVar("T")
_logger = logging.getLogger("partitiond")


class WatchedFiles(Generic[T]):
    """What was made of some files, made again once they have changed.

    Files that cannot be used, half written or not matching, leave the former in force, and are not
    tried again until they change once more.

    Args:
        paths: the files.
        make: reads them. Raises SettingsError if they cannot be used.
        renewed: called each time they were read again.

    Raises:
        SettingsError: the files cannot be used at the first time.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        make: Callable[[], T],
        renewed: Callable[[], object] = lambda: None,
    ) -> None:
        self._paths = paths
        self._make = make
        self._renewed = renewed
        self._looked_at = time.monotonic()
        # Taken before the files are read: a change during the reading causes a reload.
        self._stamp = self._read_stamp()
        self._made = make()

    def current(self) -> T:
        """Return what is in force, after a look at the files if the last one is long ago."""
        now = time.monotonic()
        if now - self._looked_at >= RELOAD_SECONDS:
            self._looked_at = now
            self._refresh()
        return self._made

    def _refresh(self) -> None:
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._made = self._make()
        except SettingsError as error:
            _logger.error("the former certificate stays in force: %s", error.message)
        else:
            self._renewed()

    def _read_stamp(self) -> list[tuple[int, int, int, int]] | None:
        """Return what differs between versions of the files; None while one is missing."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return None
        return [(one.st_mtime_ns, one.st_size, one.st_ino, one.st_dev) for one in found]
