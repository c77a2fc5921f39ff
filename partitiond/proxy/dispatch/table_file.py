"""Stores the routing table on disk, so that a proxy that was killed can serve again from it."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import InputError, NotKeptError
from partitiond.serde import read_stored, to_stored_json

TABLE_FILE: Final = "routing.json"

_logger = logging.getLogger("partitiond.proxy")


class TableFile:
    """Keeps the table on disk. Its keys are those in force, or it is not there: a proxy that starts
    again never takes a key that was removed.

    Attributes:
        stored: the table on disk; None if there is none, or it is not known.
    """

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / TABLE_FILE
        self.stored: RoutingTable | None = None

    def load(self) -> RoutingTable | None:
        """Return the table on disk; None if there is none or it is not readable."""
        try:
            self.stored = read_stored(RoutingTable, self._file)
        except (InputError, OSError):
            # Exiting would be worse than waiting for the next table, which replaces the file.
            _logger.exception("the routing table on disk is not readable: %s", self._file)
        return self.stored

    def write(self, table: RoutingTable) -> None:
        """Write the table in force to disk, if that has another one.

        Raises:
            NotKeptError: it cannot be written. A table of other keys was removed, which takes no
                room.
            OSError: that one cannot be removed either.
        """
        stored = self.stored
        if table is stored:
            return
        try:
            write_atomically(self._file, to_stored_json(table).encode())
        except OSError as error:
            if stored is None or _admits(stored) != _admits(table):
                self._file.unlink(missing_ok=True)
                self.stored = None
            raise NotKeptError(
                f"The routing table could not be written: {error}.",
                hint="Make room in the state folder; the table is in force, and is lost with the "
                "proxy.",
            ) from error
        self.stored = table


def _admits(table: RoutingTable) -> tuple[object, ...]:
    return table.keys, table.keys_required


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file atomically, readable by its owner only; a crash leaves the old or the new.

    There is no fsync: it would stall every stream on the disk, and after a crash of the machine
    the engines in the table no longer exist.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
