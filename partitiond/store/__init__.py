"""Keeps everything in one SQLite file.

There is one writer and a write-ahead log; every call of the `Store` is one transaction. Values
of the core are kept as JSON text (`partitiond.serde`), with the columns that are searched beside
them, so that a new field of a dataclass with a default needs no migration. A body of another
release is read with its unknown fields ignored. A body that lacks a required field is set aside: it
stays in its row for the release that reads it, is in no list, and is reported (`Sessions.unread`).

A file that is damaged, foreign, locked or of a newer schema is refused with a message and is not
written: the checks run on a read-only connection. A new store is made under another name and linked
into place when it is complete, so a crash never leaves half a store. Before a migration changes an
existing store, a copy is put beside it.
"""

from partitiond.store.lock import StateFolderBusyError, StateLock
from partitiond.store.opening import open_store
from partitiond.store.repository import Store

__all__ = ["StateFolderBusyError", "StateLock", "Store", "open_store"]
