"""The store: what was asked, kept in one SQLite file.

One writer, write-ahead log, every call of a `ports.Store` one transaction. Values of the core
are kept as JSON text (`partitiond.serde`) with the columns one searches by beside them, so that
a new field of a dataclass with a default needs no migration. A body of another release is read with
its unknown fields ignored. One that lacks a field that is needed is set aside: it stays in its
row for the release that reads it, is in no list, and is told of (`Sessions.unread`).

A file that is damaged, foreign, locked or of a newer schema is refused with a message and is not
written: the checks run on a read-only connection. A new store is made under another name and
linked into place when complete, so a crash never leaves half a store. Before a migration changes
an existing store a copy is put beside it.
"""

from partitiond.store.lock import StateFolderBusyError, StateLock
from partitiond.store.opening import open_store
from partitiond.store.repository import SqlStore

__all__ = ["SqlStore", "StateFolderBusyError", "StateLock", "open_store"]
