"""Remembers when the control plane was heard last, also on disk (`core.keys.stale`)."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.keys.stale import ControlWord, heard_at, is_stale
from partitiond.platform.process_identity import boot_id
from partitiond.proxy.dispatch.table_file import write_atomically
from partitiond.serde import read_stored, to_stored_json

WORD_FILE: Final = "control-word.json"

_logger = logging.getLogger("partitiond.proxy")


def since_boot() -> float:
    """Return seconds since the boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LastWord:
    """The last word of the control plane.

    Attributes:
        limit_seconds: longest silence for which keys are accepted; 0 for any. A table sets it.
        at: when the word came, in seconds since the boot; None if that is not known.

    Args:
        path: where to keep the word; None in a worker, whose parent keeps the word.
        clock: returns seconds since the boot.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = since_boot) -> None:
        self._path = path
        self._clock = clock
        self.limit_seconds = 0.0
        self.at: float | None = None

    def load(self) -> None:
        """Take over the word on disk, if it is of this boot."""
        if self._path is None:
            return
        try:
            word = read_stored(ControlWord, self._path)
        except InputError as error:
            _logger.error("the last word of the control plane cannot be read: %s", error)
            return
        if word is not None:
            self.at = heard_at(word, boot_id())

    def hear(self, limit_seconds: float) -> None:
        """Count a table that was taken as a word. A full disk loses it at the next start alone."""
        self.learn(limit_seconds, self._clock())
        if self._path is None or self.at is None or limit_seconds <= 0.0:
            return
        try:
            text = to_stored_json(ControlWord(boot_id(), self.at))
            write_atomically(self._path, text.encode())
        except OSError as error:
            _logger.error("the last word of the control plane could not be written: %s", error)

    def learn(self, limit_seconds: float, at: float | None) -> None:
        """Take over a word that another process of this host heard."""
        self.limit_seconds, self.at = limit_seconds, at

    def is_stale(self) -> bool:
        """Whether keys have to be refused."""
        # Asked at each request: without a limit, no clock is read.
        return self.limit_seconds > 0.0 and is_stale(self.limit_seconds, self.at, self._clock())
