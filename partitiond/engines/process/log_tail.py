"""Reads the end of an engine's log."""

from pathlib import Path
from typing import Final

from partitiond.engines.vllm.diagnosis import phase_of

TAIL_BYTES: Final = 128 * 1024
"""Enough for the longest traceback of three processes; a log may hold megabytes."""
LOOK_BYTES: Final = 16 * 1024
LOOK_LINES: Final = 200
"""Read of a starting engine's log at one look, ten times a second. Chosen."""


def read_tail(path: Path, size: int = TAIL_BYTES) -> str:
    """Return the last `size` bytes as text; "" when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


class PhaseReader:
    """Follows a log and says when the engine enters a new phase of its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._phase: str | None = None

    def next_phase(self) -> str | None:
        """Return the latest phase that the new lines announce; None if it has not changed."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(self._offset, file.seek(0, 2) - LOOK_BYTES))
                data = file.read(LOOK_BYTES)
                self._offset = file.tell()
        except OSError:
            return None
        lines = data.decode("utf-8", "replace").splitlines()[-LOOK_LINES:]
        latest = next(filter(None, map(phase_of, reversed(lines))), None)
        if latest is None or latest == self._phase:
            return None
        self._phase = latest
        return latest
