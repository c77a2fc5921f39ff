"""Stores the routing table on disk, so that a proxy that was killed can serve again from it."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import InputError
from partitiond.serde import read_stored, to_stored_json

TABLE_FILE: Final = "routing.json"

_logger = logging.getLogger("partitiond.proxy")


def load_table(state_dir: Path) -> RoutingTable | None:
    """Return the table on disk; None if there is none or it is not readable."""
    file = state_dir / TABLE_FILE
    try:
        return read_stored(RoutingTable, file)
    except (InputError, OSError):
        # Exiting would be worse than waiting for the next table, which replaces the file.
        _logger.exception("the routing table on disk is not readable: %s", file)
        return None


def write_table(state_dir: Path, table: RoutingTable) -> OSError | None:
    """Write the table to disk; return why that failed. The former table is still there then."""
    try:
        write_atomically(state_dir / TABLE_FILE, to_stored_json(table).encode())
    except OSError as error:
        return error
    return None


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
