"""Waits for a daemon that is starting: `partitiond serve &` may be followed by a command."""

import contextlib
import fcntl
import itertools
import os
import time
from pathlib import Path
from typing import Final

from partitiond.cli.output import say

LONGEST_SECONDS: Final = 60.0
"""A daemon with much to adopt takes half of it; then an error says that it does not answer."""
_PAUSE_SECONDS: Final = 0.2
_YOUNG_SECONDS: Final = 15.0
"""A process takes the lock a second or two after its start; more on a busy machine. Assumed."""


class Starting:
    """Waits for the daemon of one state folder, and says so once.

    Args:
        lock: the lock that a daemon holds on the folder.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._until = 0.0

    def wait(self) -> bool:
        """Wait a moment for a daemon that is starting; false if none is, or it takes too long."""
        if not (lock_is_held(self._lock) or serve_begins(self._lock.parent)):
            return False
        if not self._until:
            self._until = time.monotonic() + LONGEST_SECONDS
            say("waiting for the daemon, which is starting")
        time.sleep(_PAUSE_SECONDS)
        return time.monotonic() < self._until


def lock_is_held(path: Path) -> bool:
    """Whether a daemon holds the state folder's lock now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def serve_begins(state_dir: Path) -> bool:
    """Whether `partitiond serve` was started just now for a state folder, and may hold no lock yet.

    A process that names no folder, neither as an option nor in its environment, may be for any.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has just ended, or is another user's
            if process.uids().real != os.getuid() or not _is_young(process.create_time()):
                continue
            words = process.cmdline()
            if "serve" not in words or not any(Path(w).name == "partitiond" for w in words):
                continue
            named = dict(itertools.pairwise(words)).get("--state-dir") or process.environ().get(
                "PARTITIOND_STATE_DIR"
            )
            if named is None or Path(named) == state_dir:
                return True
    return False


def _is_young(created: float) -> bool:
    return time.time() - created < _YOUNG_SECONDS
