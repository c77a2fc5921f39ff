"""Stores the ledger of predicted and measured figures: part of `ports.Store` on SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from partitiond import serde
from partitiond.core.drift.detection import LedgerEntry
from partitiond.store.sessions import Sessions

MAX_ENTRIES: Final = 20_000
"""Entries kept in all; some 30 MB."""
DROP_EVERY: Final = 100
"""Entries between two checks for too many: a check has to count them."""
MAX_OF_REPLICA: Final = 200
"""Entries kept of each replica: a busy replica must not push out the entries of the others."""


class LedgerRepository(Sessions):
    """Predicted and measured figures of replicas."""

    def add_ledger_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Append all of them or none; the oldest entries beyond the bounds are dropped."""
        with self._write() as connection:
            last = 0
            for entry in entries:
                values = (entry.at, entry.model, entry.replica_id, serde.to_stored_json(entry))
                last = connection.execute(
                    "INSERT INTO ledger (at, model, replica_id, body) VALUES (?, ?, ?, ?)", values
                ).lastrowid or 0  # fmt: skip
            for replica in {(entry.model, entry.replica_id) for entry in entries}:
                _drop_beyond(connection, MAX_OF_REPLICA, "model = ? AND replica_id = ?", replica)
            # By number, not by age: a busy replica uses up sequences, and keeps few entries.
            if last // DROP_EVERY > (last - len(entries)) // DROP_EVERY:
                _drop_beyond(connection, MAX_ENTRIES, "1", ())

    def ledger(
        self, *, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return entries, newest first."""
        rows = self._rows(
            "SELECT body, 'ledger entry ' || sequence FROM ledger WHERE model = ifnull(?, model) "
            "AND replica_id = ifnull(?, replica_id) ORDER BY sequence DESC LIMIT ?",
            *(model, replica_id, limit),
        )
        return self._readable(LedgerEntry, rows)


def _drop_beyond(
    connection: sqlite3.Connection, most: int, of: str, values: tuple[str, ...]
) -> None:
    """Drop the oldest of these entries if there are more than `most`."""
    beyond = f"SELECT sequence FROM ledger WHERE {of} ORDER BY sequence DESC LIMIT 1 OFFSET ?"
    connection.execute(
        f"DELETE FROM ledger WHERE {of} AND sequence <= ({beyond})", (*values, *values, most)
    )
