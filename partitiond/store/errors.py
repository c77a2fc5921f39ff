"""Translates SQLite's errors: one table from the code's name to a message and what to do."""

import sqlite3
from typing import Final

from partitiond.core.errors import StoreBusyError, StoreError

_LOCKED: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")
_TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    *(
        (
            code,
            "is locked by another process",
            "End the other process that uses it (a second daemon, a backup, an sqlite3 shell), "
            "and ask again: nothing was changed.",
        )
        for code in _LOCKED
    ),
    (
        "SQLITE_NOTADB",
        "is not a SQLite database, or its header is damaged",
        "Restore a copy, or move the file away to start with an empty store.",
    ),
    (
        "SQLITE_CORRUPT",
        "is damaged",
        "Restore a copy, or move the file away to start with an empty store.",
    ),
    ("SQLITE_FULL", "cannot grow: the disk is full", "Free some space and try again."),
    (
        "SQLITE_READONLY",
        "cannot be written",
        "Make the file and its folder writable for this user, or choose another state_dir.",
    ),
    (
        "SQLITE_CANTOPEN",
        "cannot be opened",
        "Make the file and its folder readable and writable for this user.",
    ),
    (
        "SQLITE_PERM",
        "may not be opened by this user",
        "Make the file and its folder readable and writable for this user.",
    ),
    (
        "SQLITE_IOERR",
        "cannot be read or written: the disk refused",
        "Check the free space, quotas and the system log for disk errors.",
    ),
)
"""Codes are matched by prefix: SQLITE_IOERR covers SQLITE_IOERR_WRITE."""


def store_error(path: object, error: BaseException) -> StoreError:
    """Turn an error of SQLite (or of SQLAlchemy around it) into a StoreError about `path`."""
    original = getattr(error, "orig", None) or error
    name = getattr(original, "sqlite_errorname", "") if isinstance(original, sqlite3.Error) else ""
    facts = {"path": str(path), "sqlite": name, "cause": str(original)}
    for prefix, message, hint in _TABLE:
        if name.startswith(prefix):
            kind = StoreBusyError if prefix in _LOCKED else StoreError
            return kind(f"the store {path} {message}.", hint=hint, facts=facts)
    return StoreError(
        f"the store {path} cannot be used: {original}.",
        hint="Restore a copy, or move the file away to start with an empty store.",
        facts=facts,
    )
