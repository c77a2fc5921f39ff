"""Writes the proxy's log: one JSON object per line, without bodies and without keys.

Lines are buffered and written a few times a second (an access line per request would otherwise be
a system call per request). The file is rotated by size. Standard error is redirected to it, so that
the traceback of a dying process is in the same file. Workers and their parent append to one file,
which the parent alone rotates; an appending write is atomic, so lines do not mix.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Final

FLUSH_SECONDS: Final = 0.25
FLUSH_LINES: Final = 256
"""Longest wait, and most lines, of one write to the log."""
CONCERNED: Final = ("request_id", "model", "replica")
"""Fields that name the subject of a line; given to loggers as `extra`."""


class LogFile:
    """Appends lines to a file, or writes to standard error without a path.

    Args:
        path: of the file.
        max_bytes: size at which it is rotated.
        backups: rotated files that are kept.
        rotates: whether this process rotates it; another one may do so in any case.
    """

    def __init__(
        self, path: Path | None, *, max_bytes: int, backups: int, rotates: bool = True
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._rotates = rotates
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = sys.stderr.fileno()
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(path)

    def write(self, line: str) -> None:
        """Queue one line; it is on disk within `FLUSH_SECONDS`."""
        self._lines.append(line)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # before and after the loop runs
                self.flush()
            else:
                self._timer = loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the queued lines now. A full disk loses log lines, never requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode("utf-8", "replace")
        self._lines.clear()
        with contextlib.suppress(OSError):
            if self._path is not None and self._is_moved(self._path):
                self._open(self._path)
            os.write(self._descriptor, data)
            self.rotate_when_large()

    def rotate_when_large(self) -> None:
        """Rotate the file if it is too large; the parent of workers calls this periodically."""
        if self._path is None or not self._rotates:
            return
        if os.fstat(self._descriptor).st_size > self._max_bytes:
            self._rotate(self._path)

    def _is_moved(self, path: Path) -> bool:
        try:
            return path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            return True

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, sys.stderr.fileno())
        os.close(descriptor)

    def _rotate(self, path: Path) -> None:
        for number in range(self._backups - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        if self._backups > 0:
            path.replace(path.with_name(f"{path.name}.1"))
        else:
            path.unlink(missing_ok=True)
        self._open(path)


_second = (0, "")
"""The last second that was written, and its text: most lines share it with the previous line."""


def now_text() -> str:
    """Return the wall-clock time, ISO 8601 UTC with milliseconds."""
    global _second  # noqa: PLW0603 -- a cache of one entry
    now = time.time()
    second = int(now)
    known, text = _second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = (second, text)
    return f"{text}.{int((now - second) * 1000):03d}Z"


def json_line(event: str, **fields: object) -> str:
    """Format one log line; None and empty values are left out."""
    kept = {name: value for name, value in fields.items() if value is not None and value != ""}
    return json.dumps({"at": now_text(), "event": event, **kept}, separators=(",", ":"))


class JsonHandler(logging.Handler):
    """Writes Python's logging (asyncio's warnings, our own) to the same file."""

    def __init__(self, log: LogFile) -> None:
        super().__init__()
        self._log = log
        self._plain = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line."""
        trace = self._plain.formatException(record.exc_info) if record.exc_info else None
        self._log.write(
            json_line(
                "log",
                level=record.levelname.lower(),
                logger=record.name,
                message=record.getMessage(),
                **{name: getattr(record, name, None) for name in CONCERNED},
                trace=trace,
            )
        )


def configure_logging(log: LogFile) -> None:
    """Send the records of Python's logging to the log file."""
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(log)]
    root.setLevel(logging.WARNING)
    if sys.flags.dev_mode:
        root.setLevel(logging.INFO)
