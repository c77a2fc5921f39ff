"""The routing table on disk: a proxy that was killed serves again from it."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.routing import RoutingTable
from partitiond.serde import from_stored_json, to_stored_json

TABLE_FILE: Final = "routing.json"

_logger = logging.getLogger("partitiond.proxy")


def load_table(state_dir: Path) -> RoutingTable | None:
    """The table on disk, if there is a readable one."""
    file = state_dir / TABLE_FILE
    try:
        return from_stored_json(RoutingTable, file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, InputError):
        # Serving nothing is worse than waiting for the next table, which replaces the file.
        _logger.exception("the routing table on disk is not readable: %s", file)
        return None


def write_table(state_dir: Path, table: RoutingTable) -> None:
    """Keep a table. Raises OSError; the old one is still there then."""
    write_atomically(state_dir / TABLE_FILE, to_stored_json(table).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner only; a crash leaves old or new.

    Not forced to disk: that would stall every stream for the disk's sake, and after a crash of
    the machine there are no engines that the table could mean.
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
