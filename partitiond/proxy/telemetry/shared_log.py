"""Shares one log file between several processes: all append, and only the parent rotates.

An appending write is atomic in the kernel, so lines of several processes do not mix.
"""

import contextlib
import os
import sys
from pathlib import Path

from partitiond.proxy.telemetry.logs import LogFile


class SharedLog(LogFile):
    """A log file that another process may rotate."""

    def __init__(self, path: Path | None, *, max_bytes: int, backups: int) -> None:
        super().__init__(path, max_bytes=sys.maxsize, backups=backups)
        self._largest = max_bytes

    def flush(self) -> None:
        """Write the queued lines to the file that has the name now."""
        if self._path is not None and self._lines and self._is_moved(self._path):
            with contextlib.suppress(OSError):
                self._open()
        super().flush()

    def rotate_when_large(self) -> None:
        """Rotate the file if it is too large; the parent calls this periodically."""
        if self._path is not None and os.fstat(self._descriptor).st_size > self._largest:
            self._rotate(self._path)

    def _is_moved(self, path: Path) -> bool:
        try:
            return path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            return True
